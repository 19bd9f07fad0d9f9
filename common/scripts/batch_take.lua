-- Give a driver a batch that nobody drives. ARGV: nonce, lease (ms)
-- Returns {id, its fields, its open lines} or {}. The same nonce again gets the same answer.
local nonce, lease_ms = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
local earlier = redis.call('GET', KEY.CLAIM .. nonce)
local id = earlier or redis.call('ZRANGEBYSCORE', KEY.BATCH_LEASES, '-inf', int(now), 'LIMIT', 0, 1)[1]
if not id then
  return {}
end
local batch = KEY.BATCH .. id
if earlier and redis.call('HGET', batch, 'nonce') ~= nonce then
  return {}
end
if redis.call('EXISTS', batch) == 0 then  -- somebody deleted the record
  redis.call('ZREM', KEY.BATCH_LEASES, id)
  return {}
end
redis.call('ZADD', KEY.BATCH_LEASES, int(now + lease_ms), id)
redis.call('HSET', batch, 'nonce', nonce)
redis.call('SET', KEY.CLAIM .. nonce, id, 'EX', NONCE_TTL_S)
return {id, redis.call('HGETALL', batch), redis.call('SMEMBERS', KEY.BATCH_LINES .. id)}
