// Leaves a rejected promise alone, or throws outside of the handler's own call.
exports.handler = () =>
  new Promise(() => {
    Promise.reject(new TypeError('nobody catches this'));
  });
exports.exception = () =>
  new Promise(() => {
    setTimeout(() => {
      throw new TypeError('nobody catches this either');
    }, 1);
  });
