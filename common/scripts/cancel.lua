-- Cancel a job for its owner: at once while it waits, by a signal to its worker while it runs.
-- ARGV: id, key id, result ttl (s), stream grace (s)
-- Returns {status, 1 if this call ended the job} or {} where the key has no such job.
local id, key_id = ARGV[1], ARGV[2]
local job = KEY.JOB .. id
local old = redis.call('HMGET', job, 'key', 'status')
if old[1] ~= key_id then
  return {}
end
if old[2] == 'queued' then
  end_job(id, 'cancelled', '[]', {}, tonumber(ARGV[3]), tonumber(ARGV[4]))
  return {'cancelled', 1}
end
if old[2] == 'processing' then
  redis.call('HSETNX', job, 'cancel', int(now_ms()))
  redis.call('PUBLISH', KEY.CANCEL, id)
end
return {old[2], 0}
