-- Logins and sessions of browsers: one atomic step for each call.
-- KEYS: the base key; every other key is below it and has the same hash tag. ARGV: the name of the
-- step and its arguments, as listed at each step. Times are milliseconds of this server's clock.
-- base:attempt:A    the sealed attempt
-- base:session:S    hash: record (sealed), used (time of the last activity), idle, of (indexes)
-- base:all          every session, by its start: no two have the same score
-- base:of:I         sessions of a person or of a session at the provider, with the same scores
-- base:refresh:S    the session's tokens are being refreshed
local base = KEYS[1]
local all = base .. ':all'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function session_key(id) return base .. ':session:' .. id end

local function finish(id)
  local key = session_key(id)
  local record = redis.call('HGET', key, 'record')
  for index in string.gmatch(redis.call('HGET', key, 'of') or '', '%S+') do
    redis.call('ZREM', base .. ':of:' .. index, id)
  end
  redis.call('ZREM', all, id)
  redis.call('DEL', key)
  return record
end

-- Whether a session exists; one that was idle for too long ends here.
local function is_alive(id)
  local used = redis.call('HMGET', session_key(id), 'used', 'idle')
  if not used[1] or not used[2] then return false end
  if now - tonumber(used[1]) >= tonumber(used[2]) then
    finish(id)
    return false
  end
  return true
end

-- Those of the sessions of a set that have not ended. The others leave the set.
local function alive_of(key, ids)
  local found = {}
  for _, id in ipairs(ids) do
    if is_alive(id) then
      found[#found + 1] = id
    else
      redis.call('ZREM', key, id)
    end
  end
  return found
end

-- The sessions of an index, oldest first.
local function living(index)
  local key = base .. ':of:' .. index
  return alive_of(key, redis.call('ZRANGE', key, '0', '-1'))
end

-- A score for a new session, above all others.
local function next_score()
  local newest = redis.call('ZRANGE', all, '-1', '-1', 'WITHSCORES')
  return math.max(now, (tonumber(newest[2]) or 0) + 1)
end

-- The oldest sessions that have ended leave the set: more with each call than the call adds.
local function add_to(key, score, id, ttl)
  alive_of(key, redis.call('ZRANGE', key, '0', '3'))
  redis.call('ZADD', key, score, id)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end

local steps = {}

function steps.add_attempt(hash, sealed, ttl)
  redis.call('SET', base .. ':attempt:' .. hash, sealed, 'PX', ttl)
  return 1
end

function steps.take_attempt(hash)
  local key = base .. ':attempt:' .. hash
  local sealed = redis.call('GET', key)
  redis.call('DEL', key)
  return sealed
end

-- Returns the IDs and records of the person's sessions that are too many.
function steps.add_session(id, sealed, ttl, idle, maximum, person, ...)
  local key = session_key(id)
  local indexes = table.concat({person, ...}, ' ')
  local score = next_score()
  redis.call('HSET', key, 'record', sealed, 'used', now, 'idle', idle, 'of', indexes)
  redis.call('PEXPIRE', key, ttl)
  for index in string.gmatch(indexes, '%S+') do
    add_to(base .. ':of:' .. index, score, id, ttl)
  end
  add_to(all, score, id, ttl)
  local ended = {}
  local found = living(person)
  for i = 1, #found - tonumber(maximum) do
    if found[i] ~= id then
      ended[#ended + 1] = found[i]
      ended[#ended + 1] = finish(found[i])
    end
  end
  return ended
end

function steps.find_session(id, is_activity)
  if not is_alive(id) then return false end
  local key = session_key(id)
  if is_activity == '1' then redis.call('HSET', key, 'used', now) end
  return redis.call('HGET', key, 'record')
end

function steps.replace_session(id, sealed)
  if not is_alive(id) then return 0 end
  redis.call('HSET', session_key(id), 'record', sealed)
  return 1
end

function steps.end_session(id)
  if not is_alive(id) then return false end
  return finish(id)
end

function steps.sessions(index)
  local found = {}
  for _, id in ipairs(living(index)) do
    found[#found + 1] = id
    found[#found + 1] = redis.call('HGET', session_key(id), 'record')
  end
  return found
end

-- A page of the sessions of an index, or of all (''): the newest before a score, or the newest ('').
-- Returns the score before which the next page begins ('' at the end), then ID, record, time of the
-- last activity and idle time of each. `limit` bounds the work, so a page may be short.
function steps.page(index, before, limit)
  local key = index == '' and all or base .. ':of:' .. index
  local newest = before == '' and '+inf' or '(' .. before
  local size = tonumber(limit)
  local part = redis.call('ZRANGE', key, newest, '-inf', 'BYSCORE', 'REV', 'LIMIT', '0', size + 1, 'WITHSCORES')
  local found = {#part > 2 * size and part[2 * size] or ''}
  local ids = {}
  for i = 1, math.min(#part, 2 * size), 2 do ids[#ids + 1] = part[i] end
  for _, id in ipairs(alive_of(key, ids)) do
    local fields = redis.call('HMGET', session_key(id), 'record', 'used', 'idle')
    for _, value in ipairs({id, fields[1], fields[2], fields[3]}) do found[#found + 1] = value end
  end
  return found
end

function steps.lease_refresh(id, ttl)
  if redis.call('SET', base .. ':refresh:' .. id, '1', 'NX', 'PX', ttl) then return 1 end
  return 0
end

return steps[ARGV[1]](unpack(ARGV, 2))
