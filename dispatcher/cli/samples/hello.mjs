// A sample function: greets, and counts how often its environment has been used.
let calls = 0;

export const handler = async (event, context) => {
  calls += 1;
  console.log(`call ${calls} in this environment, ${context.getRemainingTimeInMillis()} ms left`);
  return { greeting: `Hello ${event.name}, from ${context.functionName}`, calls };
};
