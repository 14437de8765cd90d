-- forget: the dispatcher gives an attempt up that it voided, or whose worker died. Frees its concurrency.
-- KEYS 1 concurrency set of the function   2 concurrency set of the account   3 payload key   4 invocation
-- ARGV 1 member request_id:attempt   2 attempt   3 life of the record, ms
-- Answers: forgotten
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3])
-- What a dead worker was running runs no more; a voided one stays void, so that it never starts.
local record = redis.call('HMGET', KEYS[4], 'state', 'attempt')
if (record[1] == 'run' or record[1] == 'reserved') and record[2] == ARGV[2] then
  redis.call('HSET', KEYS[4], 'state', 'done')
  redis.call('PEXPIRE', KEYS[4], ARGV[3])
end
return 'forgotten'
