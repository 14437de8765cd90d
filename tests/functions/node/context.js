// Answers with every field of the context.
exports.handler = async (event, context) => ({
  functionName: context.functionName,
  functionVersion: context.functionVersion,
  invokedFunctionArn: context.invokedFunctionArn,
  memoryLimitInMB: context.memoryLimitInMB,
  awsRequestId: context.awsRequestId,
  logGroupName: context.logGroupName,
  logStreamName: context.logStreamName,
  callbackWaitsForEmptyEventLoop: context.callbackWaitsForEmptyEventLoop,
  remaining: typeof context.getRemainingTimeInMillis(),
  identity: context.identity,
  clientContext: context.clientContext,
  traceId: process.env._X_AMZN_TRACE_ID,
  node: process.versions.node,
});
