-- A worker goes: it is no longer announced.
-- ARGV: worker id
redis.call('ZREM', KEY.WORKERS, ARGV[1])
redis.call('HDEL', KEY.TRIALS, ARGV[1])
return redis.call('DEL', KEY.WORKER .. ARGV[1])
