// Streams its response: the event's `parts`, then `fail` as an error when given.
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  stream.setContentType('text/plain');
  for (const part of event.parts) stream.write(part);
  if (event.fail) throw new RangeError(event.fail);
  stream.end();
});
exports.page = awslambda.streamifyResponse(async (event, stream) => {
  const page = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-part': 'one' } });
  page.write('body');
  page.end();
});
