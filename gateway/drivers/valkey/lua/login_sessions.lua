-- Logins and sessions of browsers: one atomic step for each call.
-- KEYS: the base key; every other key is below it and has the same hash tag. ARGV: the name of the
-- step and its arguments, as listed at each step. Times are milliseconds of this server's clock.
-- base:attempt:A    the sealed attempt
-- base:session:S    hash: record (sealed), used (time of the last activity), idle, ends (its absolute
--                   limit), of (indexes). It stays after its limits, until `end_lapsed` takes it.
-- base:all          every session, by its start: no two have the same score
-- base:due          every session, by a time at which its limits have to be compared
-- base:of:I         sessions of a person or of a session at the provider, with the same scores
-- base:refresh:S    the session's tokens are being refreshed
local base = KEYS[1]
local all = base .. ':all'
local due = base .. ':due'
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
  redis.call('ZREM', due, id)
  redis.call('DEL', key)
  return record
end

-- When a session ends without an activity, and by which limit; nil without the session.
local function end_of(id)
  local times = redis.call('HMGET', session_key(id), 'used', 'idle', 'ends')
  if not (times[1] and times[2] and times[3]) then return nil end
  local idle_ends, ends = tonumber(times[1]) + tonumber(times[2]), tonumber(times[3])
  if ends <= idle_ends then return ends, 'absolute' end
  return idle_ends, 'idle'
end

local function is_alive(id)
  local ends = end_of(id)
  return ends ~= nil and now < ends
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

-- Returns the IDs and records of the person's sessions that are too many. `stay`: how long the session
-- waits for `end_lapsed` after its limits.
function steps.add_session(id, sealed, ttl, stay, idle, maximum, person, ...)
  local key = session_key(id)
  local indexes = table.concat({person, ...}, ' ')
  local score = next_score()
  local ends = now + tonumber(ttl)
  redis.call('HSET', key, 'record', sealed, 'used', now, 'idle', idle, 'ends', ends, 'of', indexes)
  redis.call('PEXPIRE', key, ttl + stay)
  redis.call('ZADD', due, math.min(ends, now + tonumber(idle)), id)
  if redis.call('PTTL', due) < ttl + stay then redis.call('PEXPIRE', due, ttl + stay) end
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

-- Ends sessions whose limits have passed: looks at `limit` of those that are due. Returns their
-- number, then ID, record, time of the end and limit of each that ended.
function steps.end_lapsed(limit)
  local ids = redis.call('ZRANGE', due, '-inf', now, 'BYSCORE', 'LIMIT', '0', limit)
  local found = {#ids}
  for _, id in ipairs(ids) do
    local ends, by = end_of(id)
    if ends and now < ends then
      redis.call('ZADD', due, ends, id) -- the person was active
    else
      local record = finish(id)
      if record and ends then
        for _, value in ipairs({id, record, ends, by}) do found[#found + 1] = value end
      end
    end
  end
  return found
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
