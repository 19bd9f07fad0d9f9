-- Hand a running job back to the head of its queue; the attempt does not count.
-- ARGV: id, nonce, result ttl (s), stream grace (s)
-- Returns 'requeued', 'ended' where it had been cancelled, or 'fenced' where it is no longer this
-- claim's.
local id, nonce = ARGV[1], ARGV[2]
local job = KEY.JOB .. id
local old = redis.call('HMGET', job, 'status', 'nonce', 'model', 'class', 'tag', 'cancel', 'worker')
if old[1] ~= 'processing' or old[2] ~= nonce then
  return 'fenced'
end
redis.call('HINCRBY', job, 'attempts', -1)
end_trial(id, old[3], old[7])
if old[6] then
  end_job(id, 'cancelled', '[]', {}, tonumber(ARGV[3]), tonumber(ARGV[4]))
  return 'ended'
end
requeue(id, old[3], old[4], old[5])
return 'requeued'
