// Ends its process with the event's `status`.
exports.handler = async (event) => process.exit(event.status);
