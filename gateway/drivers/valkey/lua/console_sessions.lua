-- Tickets and sessions of live consoles: one atomic step on this server's clock for each call.
-- KEYS: the base key; every other key is below it and has the same hash tag. ARGV: the name of the
-- step and its arguments, as listed at each step. Times are milliseconds.
-- base:ticket:T     13 digits of the time of storing, then the sealed ticket
-- base:tickets:P    unspent tickets of a person, by the time of storing
-- base:session:S    hash: ending ('1': its owner has a command to end it), record (sealed), cookie, resume, next (a resume key that the page may not
--                   have received), owner, last (the owner that gave it up), mode, attempt, attached, indexes
-- base:until        sessions by the time until which they can be resumed
-- base:account:A    those of an account
-- base:ended:S      the session has ended; nothing registers it again
-- base:of:I         sessions of a person or a server, by their start
-- base:seen:O       when a process has called last
-- base:rejected:N   a rejection is recorded
-- base:commands:O   commands to a process, by the time of sending
local base = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local sessions = base .. ':until'
local DAY = 86400000

local function session_key(id) return base .. ':session:' .. id end

local function is_alive(id)
  local limit = redis.call('ZSCORE', sessions, id)
  return limit and tonumber(limit) > now
end

local function field(id, name) return redis.call('HGET', session_key(id), name) or '' end

local function account_key(account) return base .. ':account:' .. account end

local function set_until(id, limit)
  redis.call('ZADD', sessions, limit, id)
  local of_account = account_key(field(id, 'account'))
  redis.call('ZADD', of_account, limit, id)
  redis.call('PEXPIRE', of_account, 7 * DAY)
  redis.call('PEXPIRE', session_key(id), 7 * DAY)
end

-- The number of living sessions: all, or those of an account.
local function count_living(key) return redis.call('ZCOUNT', key, '(' .. now, '+inf') end

-- A process calls: what it has is in this server from now on.
local function set_seen(owner) redis.call('SET', base .. ':seen:' .. owner, now, 'PX', '60000') end

local function is_in_touch(owner, within)
  local seen = redis.call('GET', base .. ':seen:' .. owner)
  return seen and now - tonumber(seen) < tonumber(within)
end

-- The living sessions of an index, oldest first; with `mode`, only those of this mode.
local function living(index, mode)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', base .. ':of:' .. index, '0', '-1')) do
    if is_alive(id) and (not mode or field(id, 'mode') == mode) then
      found[#found + 1] = id
    end
  end
  return found
end

local function finish(id, remember)
  local record = field(id, 'record')
  for index in string.gmatch(field(id, 'indexes'), '%S+') do
    redis.call('ZREM', base .. ':of:' .. index, id)
  end
  redis.call('ZREM', account_key(field(id, 'account')), id)
  redis.call('DEL', session_key(id))
  redis.call('ZREM', sessions, id)
  redis.call('SET', base .. ':ended:' .. id, '1', 'PX', remember)
  return record
end

local function send(owner, id, command)
  local key = base .. ':commands:' .. owner
  redis.call('ZADD', key, now, id .. ' ' .. command)
  redis.call('PEXPIRE', key, '60000')
end

-- No other process may attach the session: the command would not reach it there.
local function send_end(owner, id, command)
  send(owner, id, command)
  redis.call('HSET', session_key(id), 'ending', '1')
end

-- A session that another one displaces: its owner ends it, or it ends here.
local function displace(id, commands, remember)
  local owner = field(id, 'owner')
  if owner ~= '' then
    send_end(owner, id, commands[id])
    return {id, field(id, 'record'), '1'}
  end
  return {id, finish(id, remember), '0'}
end

-- The commands of a step that displaces sessions: IDs, each with its sealed command.
local function commands_of(...)
  local pairs_of, commands = {...}, {}
  for i = 1, #pairs_of, 2 do commands[pairs_of[i]] = pairs_of[i + 1] end
  return commands
end

-- The sessions that have an owner and no command yet: the caller seals one for each.
local function without_command(ids, commands)
  local missing = {}
  for _, id in ipairs(ids) do
    if field(id, 'owner') ~= '' and not commands[id] then missing[#missing + 1] = id end
  end
  return missing
end

local function take_commands(owner)
  local key = base .. ':commands:' .. owner
  local found = redis.call('ZRANGE', key, '0', '-1')
  redis.call('DEL', key)
  return found
end

-- A session has come back to a process that has not yet read that it was replaced.
local function forget_commands(owner, id)
  local key = base .. ':commands:' .. owner
  for _, one in ipairs(redis.call('ZRANGE', key, '0', '-1')) do
    if string.sub(one, 1, #id + 1) == id .. ' ' then redis.call('ZREM', key, one) end
  end
end

local function ticket_of(hash)
  local value = redis.call('GET', base .. ':ticket:' .. hash)
  if value and now >= (tonumber(string.sub(value, 1, 13)) or math.huge) then
    return value
  end
  return false  -- none, or the clock was set back: its age is unknown
end

local function store_session(id, record, cookie, resume, next_resume, owner, mode, indexes, account,
    started)
  redis.call('HSET', session_key(id), 'record', record, 'cookie', cookie, 'resume', resume,
    'next', next_resume, 'owner', owner, 'mode', mode, 'indexes', indexes, 'account', account)
  for index in string.gmatch(indexes, '%S+') do
    redis.call('ZADD', base .. ':of:' .. index, started, id)
    redis.call('PEXPIRE', base .. ':of:' .. index, 7 * DAY)
  end
end

local steps = {}

-- hash, sealed ticket, person, lifetime, number of tickets that a person may have
function steps.add_ticket(hash, sealed, person, lifetime, limit)
  local index = base .. ':tickets:' .. person
  redis.call('SET', base .. ':ticket:' .. hash, string.format('%013.0f', now) .. sealed,
    'PX', lifetime)
  redis.call('ZADD', index, now, hash)
  redis.call('PEXPIRE', index, lifetime)
  local unspent = {}
  for _, one in ipairs(redis.call('ZRANGE', index, '0', '-1')) do
    if redis.call('EXISTS', base .. ':ticket:' .. one) == 1 then
      unspent[#unspent + 1] = one
    else
      redis.call('ZREM', index, one)
    end
  end
  for i = 1, #unspent - tonumber(limit) do
    redis.call('DEL', base .. ':ticket:' .. unspent[i])
    redis.call('ZREM', index, unspent[i])
  end
  return 1
end

-- hash
function steps.find_ticket(hash)
  local value = ticket_of(hash)
  if not value then return false end
  return {string.sub(value, 14), redis.call('PTTL', base .. ':ticket:' .. hash)}
end

-- name, time to remember it
function steps.claim_rejection(name, remember)
  local key = base .. ':rejected:' .. name
  return redis.call('SET', key, '1', 'NX', 'PX', remember) and 1 or 0
end

-- hash, then the arguments of add_ticket
function steps.replace_ticket(hash, ...)
  if not ticket_of(hash) then return 0 end
  redis.call('DEL', base .. ':ticket:' .. hash)
  return steps.add_ticket(...)
end

-- hash, person, server, account, ID, record, cookie, resume key, mode, start, then the limits of
-- person, server, viewers, account and total, whose sessions to take over ('none', 'own',
-- 'any'), IDs of those whose take-over is recorded, time to remember an end, time to resume,
-- commands to those that are taken over
function steps.redeem(hash, person, server, account, id, record, cookie, resume, mode, started,
    person_max, server_max, viewers_max, account_max, total_max, takes_over, recorded, remember,
    resumable, ...)
  if not ticket_of(hash) then return {'gone'} end
  local replaced, is_view = {}, mode == 'view'
  local users = living(server, mode)
  if not is_view then
    -- The oldest, as many as have to end for one more session.
    replaced = {unpack(users, 1, #users - tonumber(server_max) + 1)}
    local others = false
    for _, one in ipairs(replaced) do
      others = others or string.sub(field(one, 'indexes'), 1, #person) ~= person
    end
    if #replaced > 0 and (takes_over == 'none' or (takes_over == 'own' and others)) then
      return {'in_use', users[1], field(users[1], 'record')}
    end
  end
  local gone, own = {}, 0
  for _, one in ipairs(replaced) do gone[one] = true end
  for _, one in ipairs(living(person)) do
    if not gone[one] then own = own + 1 end
  end
  if own >= tonumber(person_max) then return {'limit', 'person'} end
  if is_view and #users >= tonumber(viewers_max) then return {'limit', 'viewers'} end
  -- Those that are replaced are on the same server, so on the same account.
  local on_account = count_living(account_key(account)) - #replaced
  if on_account >= tonumber(account_max) then return {'limit', 'account'} end
  if count_living(sessions) - #replaced >= tonumber(total_max) then return {'limit', 'total'} end
  local unrecorded = {}
  for _, one in ipairs(replaced) do
    if not string.find(recorded, one, 1, true) then
      unrecorded[#unrecorded + 1] = {one, field(one, 'record')}
    end
  end
  if #unrecorded > 0 then return {'would_end', unpack(unrecorded)} end
  local commands = commands_of(...)
  local missing = without_command(replaced, commands)
  if #missing > 0 then return {'displaces', unpack(missing)} end
  redis.call('DEL', base .. ':ticket:' .. hash)
  local result = {'redeemed'}
  for _, one in ipairs(replaced) do
    result[#result + 1] = displace(one, commands, remember)
  end
  local indexes = person .. ' ' .. server
  store_session(id, record, cookie, resume, '', '', mode, indexes, account, started)
  redis.call('HSET', session_key(id), 'attempt', '-1', 'attached', '0')
  set_until(id, now + tonumber(resumable))
  return result
end

-- ID, cookie, resume key, next resume key, owner, lease and time to resume, time after which
-- resumes are counted anew, time in which an owner is in touch, '1' if this server has all that
-- the owner has, command to the owner of before
function steps.attach(id, cookie, resume, next_resume, owner, lease, calm, touch, settled, command)
  local previous = field(id, 'owner')
  if redis.call('EXISTS', session_key(id)) == 0 then
    -- An owner may have it, and register it again.
    return {redis.call('EXISTS', base .. ':ended:' .. id) == 1 and 'gone' or 'unknown'}
  end
  if field(id, 'ending') == '1' then return {'gone'} end
  if not is_alive(id) then return {previous == '' and 'gone' or 'unknown'} end
  if field(id, 'cookie') ~= cookie then return {'stale'} end
  if resume ~= field(id, 'resume') and resume ~= field(id, 'next') then
    -- An owner that lost touch may have given the page a newer key.
    local last = previous ~= '' and previous or field(id, 'last')
    local is_known = last == '' or last == owner or is_in_touch(last, touch)
    if not is_known then return {'unknown'} end
    return {'stale', field(id, 'record')}
  end
  if settled == '1' then set_seen(owner) end
  if previous ~= owner then
    if previous ~= '' then send(previous, id, command) end
    forget_commands(owner, id)
  end
  local attempt = tonumber(field(id, 'attempt'))
  local quiet = now - tonumber(field(id, 'attached'))
  if attempt > 0 and quiet >= tonumber(calm) then attempt = 0 end
  attempt = attempt + 1
  redis.call('HSET', session_key(id), 'resume', resume, 'next', next_resume, 'owner', owner,
    'attempt', attempt, 'attached', now)
  set_until(id, now + tonumber(lease))
  return {'attached', field(id, 'record'), previous, attempt}
end

-- ID, owner, the key that the page has received
function steps.confirm_key(id, owner, next_resume)
  if field(id, 'owner') == owner and field(id, 'next') == next_resume then
    redis.call('HSET', session_key(id), 'resume', next_resume, 'next', '')
  end
  return 1
end

-- owner, lease and time to resume, IDs
function steps.renew(owner, lease, ...)
  set_seen(owner)
  local lost, missing = {}, {}
  for _, id in ipairs({...}) do
    if redis.call('EXISTS', session_key(id)) == 1 then
      if field(id, 'owner') == owner then
        set_until(id, now + tonumber(lease))
      else
        lost[#lost + 1] = id
      end
    elseif redis.call('EXISTS', base .. ':ended:' .. id) == 1 then
      lost[#lost + 1] = id
    else
      missing[#missing + 1] = id
    end
  end
  return {lost, missing, take_commands(owner)}
end

-- ID, record, cookie, resume key, next resume key or '', owner, mode, person, server, account,
-- start, lease and time to resume, sessions that may be on the server, commands to younger ones
function steps.register(id, record, cookie, resume, next_resume, owner, mode, person, server,
    account, started, lease, server_max, ...)
  local holder = field(id, 'owner')
  if redis.call('EXISTS', base .. ':ended:' .. id) == 1 or (holder ~= '' and holder ~= owner) then
    return {'ended'}
  end
  if mode == 'control' then
    local own, older, younger = tonumber(started), 0, {}
    for _, one in ipairs(living(server, mode)) do
      if one ~= id then
        local other = tonumber(redis.call('ZSCORE', base .. ':of:' .. server, one))
        if other < own or (other == own and one < id) then
          older = older + 1
        else
          younger[#younger + 1] = one
        end
      end
    end
    local free = tonumber(server_max) - older - 1
    if free < 0 then return {'older'} end
    younger = {unpack(younger, free + 1)}  -- the youngest, for which there is no room
    local commands = commands_of(...)
    local missing = without_command(younger, commands)
    if #missing > 0 then return {'displaces', unpack(missing)} end
    for _, one in ipairs(younger) do
      if field(one, 'owner') ~= '' then
        send_end(field(one, 'owner'), one, commands[one])
      else
        set_until(one, now - 1)  -- it counts as dead
      end
    end
  end
  local attempt = field(id, 'attempt')
  local indexes = person .. ' ' .. server
  store_session(id, record, cookie, resume, next_resume, owner, mode, indexes, account, started)
  redis.call('HSET', session_key(id), 'attempt', attempt ~= '' and attempt or '0', 'attached', now)
  set_until(id, now + tonumber(lease))
  return {'registered'}
end

-- owner
function steps.take_commands(owner)
  set_seen(owner)
  return take_commands(owner)
end

-- ID, '1' if it ends the session, command, time to remember an end
function steps.command(id, ends, command, remember)
  if not is_alive(id) then return {'unknown'} end
  local owner = field(id, 'owner')
  if owner ~= '' then
    if ends == '1' then send_end(owner, id, command) else send(owner, id, command) end
    return {'sent'}
  end
  if ends == '1' then return {'ended', finish(id, remember)} end
  return {'sent'}
end

-- ID, owner, time to resume
function steps.detach(id, owner, resumable)
  if field(id, 'owner') == owner then
    redis.call('HSET', session_key(id), 'owner', '', 'last', owner)
    set_until(id, now + tonumber(resumable))
  end
  return 1
end

-- ID, owner, time to remember an end
function steps.remove(id, owner, remember)
  if field(id, 'owner') ~= owner then return 0 end
  finish(id, remember)
  return 1
end

-- ID, owner, record, mode
function steps.update(id, owner, record, mode)
  if field(id, 'owner') ~= owner then return 0 end
  redis.call('HSET', session_key(id), 'record', record, 'mode', mode)
  return 1
end

-- none: the IDs of sessions that can no longer be resumed
function steps.dead()
  return redis.call('ZRANGE', sessions, '-inf', now, 'BYSCORE', 'LIMIT', '0', '200')
end

-- time to remember an end, IDs
function steps.claim_dead(remember, ...)
  local claimed = {}
  for _, id in ipairs({...}) do
    if redis.call('EXISTS', session_key(id)) == 0 then
      redis.call('ZREM', sessions, id)
    elseif not is_alive(id) then
      local owner = field(id, 'owner')
      claimed[#claimed + 1] = {id, finish(id, remember), owner}
    end
  end
  return claimed
end

-- ID
function steps.find(id)
  if not is_alive(id) then return false end
  return {field(id, 'record'), field(id, 'owner')}
end

-- index ('': all)
function steps.sessions(index)
  local ids
  if index == '' then
    ids = redis.call('ZRANGE', sessions, '(' .. now, '+inf', 'BYSCORE')
  else
    ids = living(index)
  end
  local found = {}
  for _, id in ipairs(ids) do
    found[#found + 1] = {id, field(id, 'record'), field(id, 'owner')}
  end
  return found
end

return steps[ARGV[1]](unpack(ARGV, 2))
