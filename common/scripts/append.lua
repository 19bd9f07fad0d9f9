-- Commit newly generated tokens of one choice and tell the watchers.
-- ARGV: id, nonce, choice, position of the first, how many, event, used (ms), epoch
-- Returns {'ok', committed, cancel} | {'have', committed, cancel} | {'fenced'}.
-- 'have': the position is not where the committed tokens end, as when a call is repeated; or they
-- were voided after the call was sent.
local id, nonce, choice = ARGV[1], ARGV[2], ARGV[3]
local position, count = tonumber(ARGV[4]), tonumber(ARGV[5])
local job, pos = KEY.JOB .. id, 'pos:' .. choice

local old = redis.call('HMGET', job, 'status', 'nonce', pos, 'cancel', 'suspect', 'model', 'worker',
  'epoch')
if old[1] ~= 'processing' or old[2] ~= nonce then
  return {'fenced'}
end
local committed, cancel = tonumber(old[3] or 0), old[4] and 1 or 0
if position ~= committed or tonumber(old[8] or 0) ~= tonumber(ARGV[8]) then
  return {'have', committed, cancel}
end
redis.call('HSET', job, pos, committed + count, 'used_ms', ARGV[7])
redis.call('HSETNX', job, 'first_token_ms', int(now_ms()))
if old[5] and num_committed(id) >= tonumber(old[5]) then
  -- Past the point where its worker died: it was not the job.
  redis.call('HDEL', job, 'suspect')
  redis.call('HSET', job, 'crashes', 0)
  end_trial(id, old[6], old[7])
end
add_event(id, ARGV[6])
return {'ok', committed + count, cancel}
