-- Accept a batch. ARGV: id, key id, most unfinished batches of a key, lifetime of the record (s),
--                       then field, value, ...
-- Returns {'ok', its fields} | {'mismatch'} where the same id came with another request |
-- {'full', unfinished}. Repeated, it changes nothing and answers again.
local id, key_id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local batch, own = KEY.BATCH .. id, KEY.BATCHES .. key_id
local fields = {}
for i = 5, #ARGV, 2 do
  fields[ARGV[i]] = ARGV[i + 1]
end
if redis.call('EXISTS', batch) == 1 then
  if redis.call('HGET', batch, 'request') ~= fields.request then
    return {'mismatch'}
  end
  return {'ok', redis.call('HGETALL', batch)}
end
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', own, '-inf', int(now - tonumber(ARGV[4]) * 1000))
local unfinished = 0
for _, other in ipairs(redis.call('ZRANGE', KEY.BATCH_LEASES, 0, -1)) do
  if redis.call('HGET', KEY.BATCH .. other, 'key') == key_id then
    unfinished = unfinished + 1
  end
end
if unfinished >= most then
  return {'full', unfinished}
end
redis.call('HSET', batch, 'key', key_id, 'status', 'validating', 'step', 0,
  'created_ms', int(now), unpack(ARGV, 5))
redis.call('ZADD', own, int(now), id)
redis.call('ZADD', KEY.BATCH_LEASES, 0, id)
return {'ok', redis.call('HGETALL', batch)}
