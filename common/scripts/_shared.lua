-- What every script shares. `common/lua.py` puts it, and the key names, before each of them.
-- All times are this server's own. A job's record is KEY.JOB .. id; see common/schemas.py.

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
  local texts, ids = {}, {}
  for _, entry in ipairs(redis.call('XRANGE', KEY.EVENTS .. id, '-', '+')) do
    local event = cjson.decode(entry[2][2])
    if event.c == 0 then
      for i, token in ipairs(event.i) do
        ids[#ids + 1] = int(token)
        texts[#texts + 1] = event.t[i]
      end
    end
  end
  return '[{"text":' .. cjson.encode(table.concat(texts)) .. ',"token_ids":['
    .. table.concat(ids, ',') .. '],"finish_reason":"' .. finish_reason .. '"}]'
end

-- The one way out for every job. `tails` is a JSON list; `extra` holds field, value, ...
local function end_job(id, status, tails, extra, result_ttl_s, stream_grace_s)
  local job = KEY.JOB .. id
  local old = redis.call('HMGET', job, 'key', 'model', 'class', 'nonce', 'pos:0', 'prompt_tokens')
  local event = '{"s":"' .. status .. '","t":' .. tails .. '}'
  local eid = redis.call('HINCRBY', job, 'eid', 1)
  redis.call('XADD', KEY.EVENTS .. id, eid .. '-0', 'd', event)

  redis.call('HSET', job, 'status', status, 'ended_ms', int(now_ms()), 'ended_by', old[4] or '')
  if #extra > 0 then
    redis.call('HSET', job, unpack(extra))
  end
  if old[5] and redis.call('HEXISTS', job, 'result') == 0 then
    redis.call('HSET', job, 'result', result_from_stream(id, status))
  end
  redis.call('HDEL', job, 'nonce', 'cancel')
  redis.call('ZREM', ready_key(old[2], old[3]), id)
  redis.call('ZREM', KEY.LEASES, id)

  redis.call('HINCRBY', KEY.COUNTERS, 'jobs:' .. status, 1)
  redis.call('HINCRBY', KEY.COUNTERS, 'generation_tokens', old[5] or 0)
  if old[5] then
    redis.call('HINCRBY', KEY.COUNTERS, 'prompt_tokens',
      redis.call('HGET', job, 'prompt_tokens') or 0)
  end

  redis.call('EXPIRE', KEY.EVENTS .. id, stream_grace_s)
  redis.call('EXPIRE', job, result_ttl_s)
  redis.call('SET', KEY.GONE .. id, old[1], 'EX', 2 * result_ttl_s)
  ring(id, eid, event)
end

-- Back to its old place in the line. Whatever it had committed stays committed.
local function requeue(id, model, class, tag)
  local job = KEY.JOB .. id
  redis.call('HSET', job, 'status', 'queued')
  redis.call('HDEL', job, 'nonce')
  redis.call('ZREM', KEY.LEASES, id)
  redis.call('ZADD', ready_key(model, class), tag, id)
  push_permit(model, id, id .. ':' .. int(now_us()))
  ring(id, 0, '{"status":"queued"}')
end
