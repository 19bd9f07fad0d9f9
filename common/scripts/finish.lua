-- End a job as the worker that runs it reports.
-- ARGV: id, nonce, status, tails, result ttl (s), stream grace (s), used (ms), number of choices,
--       tokens of each choice, then field, value, ...
-- Returns {'ok'} | {'have', choice, committed} | {'fenced'}. Repeated, it answers 'ok' again.
local id, nonce, status, tails = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local num_told = tonumber(ARGV[8])
local job = KEY.JOB .. id

local old = redis.call('HMGET', job, 'status', 'nonce', 'ended_by', 'model', 'worker')
if old[3] == nonce then
  return {'ok'}
end
if old[1] ~= 'processing' or old[2] ~= nonce then
  return {'fenced'}
end
for choice = 0, num_told - 1 do
  local committed = tonumber(redis.call('HGET', job, 'pos:' .. choice) or 0)
  if committed ~= tonumber(ARGV[9 + choice]) then
    return {'have', choice, committed}
  end
end
-- Whose end it was, so that a repeat is told from somebody who came too late.
local extra = {'used_ms', ARGV[7], 'ended_by', nonce}
for i = 9 + num_told, #ARGV do
  extra[#extra + 1] = ARGV[i]
end
end_trial(id, old[4], old[5])
end_job(id, status, tails, extra, tonumber(ARGV[5]), tonumber(ARGV[6]))
return {'ok'}
