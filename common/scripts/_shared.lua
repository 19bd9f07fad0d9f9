-- What every script shares. `common/connection.py` puts it, and the key names, before each.
-- All times are this server's own. A job's record is KEY.JOB .. id; see common/schemas.py.

-- Tokens that a suspect has to commit: more than its worker can have generated and not sent.
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

-- The choice's committed tokens, put together from its events: for an end without a worker.
local function result_from_stream(id, finish_reason)
  local texts, ids, logprobs = {}, {}, {}
  for _, entry in ipairs(redis.call('XRANGE', KEY.EVENTS .. id, '-', '+')) do
    local event = cjson.decode(entry[2][2])
    if event.r then
      texts, ids, logprobs = {}, {}, {}
    elseif event.c == 0 then
      for i, token in ipairs(event.i) do
        ids[#ids + 1] = int(token)
        texts[#texts + 1] = event.t[i]
        logprobs[#logprobs + 1] = event.l and cjson.encode(event.l[i])
      end
    end
  end
  return '[{"text":' .. cjson.encode(table.concat(texts)) .. ',"token_ids":['
    .. table.concat(ids, ',') .. '],"finish_reason":"' .. finish_reason .. '"'
    .. (#logprobs > 0 and ',"logprobs":[' .. table.concat(logprobs, ',') .. ']' or '') .. '}]'
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
  local old = redis.call('HMGET', job, 'key', 'model', 'class', 'pos:0', 'idem')
  redis.call('HSET', job, 'status', status, 'ended_ms', int(now_ms()))
  if #extra > 0 then
    redis.call('HSET', job, unpack(extra))
  end
  if old[4] and redis.call('HEXISTS', job, 'result') == 0 then
    redis.call('HSET', job, 'result', result_from_stream(id, REASONS[status]))
  end
  redis.call('HDEL', job, 'nonce', 'cancel', 'suspect')
  redis.call('ZREM', ready_key(old[2], old[3]), id)
  redis.call('ZREM', KEY.LEASES, id)

  redis.call('HINCRBY', KEY.COUNTERS, 'jobs:' .. status, 1)
  redis.call('HINCRBY', KEY.COUNTERS, 'generation_tokens', old[4] or 0)
  if old[4] then
    redis.call('HINCRBY', KEY.COUNTERS, 'prompt_tokens',
      redis.call('HGET', job, 'prompt_tokens') or 0)
  end
  tally_end(id, status, old[4] or 0)
  -- Who has cancelled a job may send the same request again.
  if old[5] and status == 'cancelled' then
    local name = KEY.IDEMPOTENCY .. old[5]
    if string.find(redis.call('GET', name) or '', id, 1, true) == 1 then
      redis.call('DEL', name)
    end
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
  local committed = tonumber(redis.call('HGET', job, 'pos:0') or 0)
  redis.call('HSET', job, 'suspect', committed + TRIAL_TOKENS)
  requeue(id, old[1], old[2], old[3])
  return 'requeued'
end
