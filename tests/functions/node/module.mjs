// Answers with the event, as an ES module.
export const handler = async (event) => event;
