-- Begin a claimed job again from nothing: what was committed cannot be continued.
-- ARGV: id, nonce, epoch: one more than before; 0 where this claim has committed nothing.
-- Returns 'ok' or 'fenced'. Repeated, it changes nothing; with epoch 0 before the next append only.
local id, nonce, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
local old = redis.call('HMGET', KEY.JOB .. id, 'status', 'nonce', 'epoch')
if old[1] ~= 'processing' or old[2] ~= nonce then
  return 'fenced'
end
if epoch > 0 then
  if tonumber(old[3] or 0) >= epoch then
    return 'ok'
  end
  redis.call('HSET', KEY.JOB .. id, 'epoch', epoch)
end
if num_committed(id) > 0 then
  restart(id)
end
return 'ok'
