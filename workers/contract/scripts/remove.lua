-- remove: an environment is no more, whatever its record says; only the worker that owned it may say so. A message
-- of acquire that is on its way finds none.
-- KEYS 1 environment   2 leases of its worker   3 idle of its worker   4 warm of its revision   5 environments of its worker
-- ARGV 1 environment
-- Answers: removed
redis.call('DEL', KEYS[1])
for i = 2, 4 do
  redis.call('ZREM', KEYS[i], ARGV[1])
end
redis.call('SREM', KEYS[5], ARGV[1])
return 'removed'
