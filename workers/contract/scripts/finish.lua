-- finish: an attempt has ended. Frees its concurrency and hands its outcome to the dispatcher that waits for it, or to the
-- ledger, which reads a stream.
-- KEYS 1 invocation   2 concurrency set of the function   3 concurrency set of the account   4 reply list or stream
--      5 payload key
-- ARGV 1 attempt   2 member request_id:attempt   3 outcome   4 life of the record and of an unread reply, ms
--      5 list | stream
-- Answers: done | stale (a newer attempt has begun: nobody waits for this one)
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if attempt and tonumber(attempt) > tonumber(ARGV[1]) then
  return 'stale'
end
-- No record means that Redis was lost while it ran: the caller still waits for its answer.
redis.call('HSET', KEYS[1], 'state', 'done', 'attempt', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('UNLINK', KEYS[5])
if ARGV[5] == 'stream' then
  redis.call('XADD', KEYS[4], '*', 'o', ARGV[3])
else
  redis.call('RPUSH', KEYS[4], ARGV[3])
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
end
return 'done'
