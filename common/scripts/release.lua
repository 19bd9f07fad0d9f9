-- Hand a running job back to the head of its queue; the attempt does not count.
-- ARGV: id, nonce, result ttl (s), stream grace (s)
-- Returns 1, or 0 where the job is no longer this claim's.
local id, nonce = ARGV[1], ARGV[2]
local job = KEY.JOB .. id
local old = redis.call('HMGET', job, 'status', 'nonce', 'model', 'class', 'tag', 'cancel')
if old[1] ~= 'processing' or old[2] ~= nonce then
  return 0
end
redis.call('HINCRBY', job, 'attempts', -1)
if old[6] then
  end_job(id, 'cancelled', '[]', {}, tonumber(ARGV[3]), tonumber(ARGV[4]))
else
  requeue(id, old[3], old[4], old[5])
end
return 1
