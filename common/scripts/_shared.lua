-- What every script shares. `common/connection.py` puts it, and the key names, before each.
-- All times are this server's own. A job's record is KEY.JOB .. id; see common/schemas.py.

-- Tokens that a suspect has to commit for each of its choices: more than its worker can have generated
-- and not sent.
local TRIAL_TOKENS = 8
local REASONS = {failed = 'error', expired = 'timeout', cancelled = 'cancelled'}
local CLASSES = {'high', 'normal', 'low'}

local function now_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- Lua prints large numbers as 1.7e+15; Redis would keep them so.
local function int(number)
  return string.format('%.0f', number)
end

local function ready_key(model, class)
  return KEY.READY .. model .. ':' .. class
end

local function num_ready(model)
  local total = 0
  for _, class in ipairs(CLASSES) do
    total = total + redis.call('ZCARD', ready_key(model, class))
  end
  return total
end

local function num_queued()
  local total = 0
  for _, model in ipairs(redis.call('SMEMBERS', KEY.MODELS)) do
    total = total + num_ready(model)
  end
  return total
end

-- Jobs that are claimed before this one, itself counted: 1 is next.
local function place_in_line(model, class, id)
  local place = 1
  for _, other in ipairs(CLASSES) do
    if other == class then
      return place + (redis.call('ZRANK', ready_key(model, class), id) or 0)
    end
    place = place + redis.call('ZCARD', ready_key(model, other))
  end
end

-- What an idempotency key holds: an id, the request's hash, and of how many jobs the id is the name.
local function read_idempotency(value)
  local first, hash, count = string.match(value, '^(%S+) (%S+) ?(%d*)$')
  return first, hash, tonumber(count) or 1
end

-- As `member_ids` in common/schemas.py.
local function member_ids(group_id, count)
  if count == 1 then
    return {group_id}
  end
  local ids = {}
  for index = 0, count - 1 do
    ids[#ids + 1] = group_id .. '-' .. index
  end
  return ids
end

-- Frees the idempotency key of a submission when all its jobs have ended, if one was cancelled: who
-- has cancelled may send the same request again, but not while a part of the first one runs.
local function free_idempotency(idem)
  local value = redis.call('GET', KEY.IDEMPOTENCY .. idem)
  if not value then
    return
  end
  local first, _, count = read_idempotency(value)
  local is_cancelled = false
  for _, id in ipairs(member_ids(first, count)) do
    local old = redis.call('HMGET', KEY.JOB .. id, 'status', 'idem')
    if old[2] == idem and (old[1] == 'queued' or old[1] == 'processing') then
      return
    end
    is_cancelled = is_cancelled or (old[2] == idem and old[1] == 'cancelled')
  end
  if is_cancelled then
    redis.call('DEL', KEY.IDEMPOTENCY .. idem)
  end
end

-- One Celery message for the job. A spare one does no harm, so a full list needs none.
local function push_permit(model, id, tag)
  local list = KEY.PERMITS .. model
  if redis.call('LLEN', list) >= PERMIT_CAP then
    return false
  end
  local quoted = {TASK = cjson.encode(id), TAG = cjson.encode(tag), QUEUE = cjson.encode(list)}
  redis.call('LPUSH', list, (string.gsub(PERMIT_TEMPLATE, '@(%u+)@', quoted)))
  return true
end

local function ring(id, eid, payload)
  redis.call('PUBLISH', KEY.BELL .. id, eid .. ' ' .. payload)
end

local function num_choices(id)
  return tonumber(redis.call('HGET', KEY.JOB .. id, 'n') or 1)
end

-- Tokens that are committed, of all choices together.
local function num_committed(id)
  local total = 0
  for choice = 0, num_choices(id) - 1 do
    total = total + tonumber(redis.call('HGET', KEY.JOB .. id, 'pos:' .. choice) or 0)
  end
  return total
end

local function empty_choices(count)
  local choices = {}
  for choice = 1, count do
    choices[choice] = {texts = {}, ids = {}, logprobs = {}}
  end
  return choices
end

-- What is committed of every choice, put together from the events: for an end without a worker.
local function result_from_stream(id, finish_reason)
  local count = num_choices(id)
  local choices = empty_choices(count)
  for _, entry in ipairs(redis.call('XRANGE', KEY.EVENTS .. id, '-', '+')) do
    local event = cjson.decode(entry[2][2])
    if event.r then
      choices = empty_choices(count)
    elseif event.c then
      local choice = choices[event.c + 1]
      for i, token in ipairs(event.i) do
        choice.ids[#choice.ids + 1] = int(token)
        choice.texts[#choice.texts + 1] = event.t[i]
        choice.logprobs[#choice.logprobs + 1] = event.l and cjson.encode(event.l[i])
      end
    end
  end
  local packed = {}
  for i, choice in ipairs(choices) do
    local logprobs = #choice.logprobs > 0
      and ',"logprobs":[' .. table.concat(choice.logprobs, ',') .. ']' or ''
    packed[i] = '{"text":' .. cjson.encode(table.concat(choice.texts)) .. ',"token_ids":['
      .. table.concat(choice.ids, ',') .. '],"finish_reason":"' .. finish_reason .. '"'
      .. logprobs .. '}'
  end
  return '[' .. table.concat(packed, ',') .. ']'
end

-- One more event at the end of the job's stream.
local function add_event(id, event)
  local eid = redis.call('HINCRBY', KEY.JOB .. id, 'eid', 1)
  redis.call('XADD', KEY.EVENTS .. id, eid .. '-0', 'd', event)
  ring(id, eid, event)
end

-- The job is no longer its worker's trial; where other suspects wait, one may be tried next.
local function end_trial(id, model, worker)
  if redis.call('HGET', KEY.TRIALS, worker) == id then
    redis.call('HDEL', KEY.TRIALS, worker)
    if num_ready(model) > 0 then
      push_permit(model, id, id .. ':' .. int(now_us()))
    end
  end
end

-- The one way out for every job. `tails` is a JSON list; `extra` holds field, value, ...
local function end_job(id, status, tails, extra, result_ttl_s, stream_grace_s)
  local job = KEY.JOB .. id
  local old = redis.call('HMGET', job, 'key', 'model', 'class', 'idem', 'cancel')
  local committed = num_committed(id)
  redis.call('HSET', job, 'status', status, 'ended_ms', int(now_ms()))
  if #extra > 0 then
    redis.call('HSET', job, unpack(extra))
  end
  if committed > 0 and redis.call('HEXISTS', job, 'result') == 0 then
    redis.call('HSET', job, 'result', result_from_stream(id, REASONS[status]))
  end
  redis.call('HDEL', job, 'nonce', 'cancel', 'suspect')
  redis.call('ZREM', ready_key(old[2], old[3]), id)
  redis.call('ZREM', KEY.LEASES, id)

  redis.call('HINCRBY', KEY.COUNTERS, 'jobs:' .. status, 1)
  local generated = redis.call('HGET', job, 'completion_tokens') or committed
  redis.call('HINCRBY', KEY.COUNTERS, 'generation_tokens', generated)
  if committed > 0 or status == 'completed' then
    redis.call('HINCRBY', KEY.COUNTERS, 'prompt_tokens',
      redis.call('HGET', job, 'prompt_tokens') or 0)
  end
  tally_end(id, status, generated, old[5])
  if old[4] then
    free_idempotency(old[4])
  end

  add_event(id, '{"s":"' .. status .. '","t":' .. tails .. '}')
  redis.call('EXPIRE', KEY.EVENTS .. id, math.min(stream_grace_s, result_ttl_s))
  redis.call('EXPIRE', job, result_ttl_s)
  redis.call('SET', KEY.GONE .. id, old[1], 'EX', 2 * result_ttl_s)
end

-- Back to its old place in the line. Whatever it had committed stays committed.
local function requeue(id, model, class, tag)
  local job = KEY.JOB .. id
  redis.call('HSET', job, 'status', 'queued', 'requeued_ms', int(now_ms()))
  redis.call('HDEL', job, 'nonce')
  redis.call('ZREM', KEY.LEASES, id)
  redis.call('ZADD', ready_key(model, class), tag, id)
  push_permit(model, id, id .. ':' .. int(now_us()))
  ring(id, 0, '{"status":"queued"}')
end

-- What was committed is void, and so is the time that it took.
local function restart(id)
  local job = KEY.JOB .. id
  for _, field in ipairs(redis.call('HKEYS', job)) do
    if string.sub(field, 1, 4) == 'pos:' then
      redis.call('HDEL', job, field)
    end
  end
  redis.call('HSET', job, 'used_ms', 0)
  add_event(id, '{"r":1}')
end

-- A worker died, or is not heard of: its running job goes back in line, or ends where it was
-- cancelled or has lost too many workers. `trial`: the suspect that the worker was trying, which
-- is then to blame alone; but whoever ran beside it is a suspect too.
-- Returns 'requeued' or 'ended'.
local function take_back(id, trial, max_attempts, result_ttl_s, stream_grace_s, error_type, message)
  local job = KEY.JOB .. id
  local old = redis.call('HMGET', job, 'model', 'class', 'tag', 'cancel')
  if trial and trial ~= id then
    redis.call('HINCRBY', job, 'attempts', -1)
  elseif redis.call('HINCRBY', job, 'crashes', 1) >= max_attempts and not old[4] then
    end_job(id, 'failed', '[]', {'error_type', error_type, 'error_message', message},
      result_ttl_s, stream_grace_s)
    return 'ended'
  end
  if old[4] then
    end_job(id, 'cancelled', '[]', {}, result_ttl_s, stream_grace_s)
    return 'ended'
  end
  redis.call('HSET', job, 'suspect', num_committed(id) + TRIAL_TOKENS * num_choices(id))
  requeue(id, old[1], old[2], old[3])
  return 'requeued'
end
