// Throws RangeError with the event's `message`.
function inner(message) {
  throw new RangeError(message);
}
exports.handler = async (event) => inner(event.message || 'on purpose');
exports.sync = (event) => inner(event.message || 'on purpose');
exports.text = async () => {
  throw 'only text'; // eslint-disable-line no-throw-literal
};
