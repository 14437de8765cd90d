// Answers with the event.
exports.handler = async (event) => event;
