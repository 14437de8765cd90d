-- forget: the dispatcher gives an invocation up that it voided, or whose worker died. Frees its concurrency.
-- KEYS 1 concurrency set of the function   2 concurrency set of the account   3 payload key
-- ARGV 1 member request_id:attempt
-- Answers: forgotten
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('UNLINK', KEYS[3])
return 'forgotten'
