// Writes one line on each level.
console.log('at import');
exports.handler = async (event) => {
  console.log('text and', { a: 1 });
  console.info('info');
  console.debug('debug');
  console.warn('warn');
  console.error('error', new Error('with a cause').message);
  process.stdout.write('raw\n');
  return null;
};
