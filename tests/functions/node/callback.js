// Answers by callback, after the event's `wait_ms`; `fail` in the event makes it fail.
exports.handler = (event, context, callback) => {
  if (event.eager) context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {
    if (event.fail) callback(new RangeError(event.fail));
    else callback(null, { answered: 'by callback' });
  }, event.wait_ms || 0);
};
exports.succeed = (event, context) => {
  context.succeed({ answered: 'by succeed' });
};
exports.nothing = () => {};
