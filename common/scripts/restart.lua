-- Begin a claimed job again from nothing: what was committed cannot be continued.
-- ARGV: id, nonce
-- Returns 'ok' or 'fenced'. Repeated before the next append, it changes nothing.
local id, nonce = ARGV[1], ARGV[2]
local old = redis.call('HMGET', KEY.JOB .. id, 'status', 'nonce')
if old[1] ~= 'processing' or old[2] ~= nonce then
  return 'fenced'
end
if num_committed(id) > 0 then
  restart(id)
end
return 'ok'
