#!lua
-- One replica's turn at an account's budget, in one round trip: who leaves, which 429s came, who
-- enters, who waits for calls that several share; then the slots that are due are given away, in fair order, whichever replica the calls
-- wait in. The rules are those of gateway/rules/fair_queue.py and adaptation.py.
--
-- KEYS: state, interactive line, bulk line, finish tags, replicas that live.
-- ARGV: one text of words, as fair_queue.py beside this folder writes it, `-` for what is not known:
-- a client takes longer over forty arguments than over all the rest. The answer is one text, too.
-- Spans and instants are whole microseconds of this server's clock; what replicas know of instants
-- comes as a span from now, so that it holds after a failover to a server with another clock.
-- Numbers are formatted by hand: Lua's tostring keeps 14 digits.
local CUT, REGROW, GROWTH, FLOOR = 0.9, 10, 0.0001, 0.01
local MEASURE_WITHIN, MEASURE_CALLS = 60, 3
local TOLD_PART = 0.97
local BULK_EVERY, DOOMED_FACTOR, DOOMED_MORE = 8, 1.25, 500000
local AHEAD_MAX, PAUSE_MAX, LIFE, REUNION = 5000000, 300000000, 1500000, 2500000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local text = string.gmatch(ARGV[1], '%S+')
local function number() return tonumber(text()) end
local function whole(value) return string.format('%.0f', value) end
local function exact(value) return string.format('%.17g', value) end

local replica, former, channel, line = text(), text(), text(), text()
local queue_max, caller_max, ceiling, window_count = number(), number(), number(), number()
local look_ahead, known_version, known_vtime = number(), number(), number()
local known_pause, returned = number(), number()
local known = {goal = number(), low = number(), cut = number(), epoch = number(),
  calls = number()}
local unsure = number()

-- What this server remembers. Where it lost it, or is behind what the replica saw (a failover that
-- lost the last writes), or the replica was alone meanwhile, what the replica knows is added.
local kept = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do kept[flat[i]] = tonumber(flat[i + 1]) end

local version = kept.version or 0
local adopts = returned > 0 or version < known_version
local vtime, pause = kept.vtime or 0, kept.pause or 0
if adopts then
  version = math.max(version, known_version)
  vtime = math.max(vtime, known_vtime)
  pause = math.max(pause, now + known_pause)
end
pause = math.min(pause, now + PAUSE_MAX)
local turns = kept.turns or 0

local learned = nil
if kept.goal then
  learned = {goal = kept.goal, low = kept.low, cut = kept.cut, epoch = kept.epoch,
    calls = kept.calls}
end
if adopts and known.goal and (not learned or now - known.cut > learned.cut + 1000000) then
  learned = {goal = known.goal, low = known.low, cut = now - known.cut,
    epoch = now + known.epoch, calls = known.calls}
end

local function rate()
  if not learned then return ceiling end
  local since, grown = (now - learned.cut) / 1000000, nil
  if since < REGROW then
    local missing = (REGROW - since) / REGROW
    grown = learned.goal - (learned.goal - learned.low) * missing * missing * missing
  else
    local past = since - REGROW
    grown = learned.goal + GROWTH * ceiling * past * past * past
  end
  return math.min(ceiling, math.max(FLOOR * ceiling, grown))
end

-- After a time alone replicas come back one by one. Each return is a roll call: until all have
-- taken a turn since, those who may still be alone keep their part of the budget.
local reunion, expected = kept.reunion or 0, kept.expected or 0
local gathers = returned > 0
if gathers then
  expected = math.max(now < reunion + REUNION and expected or 0, returned)
  reunion = now
end
if former ~= '-' then redis.call('ZREM', KEYS[5], former) end
redis.call('ZADD', KEYS[5], now, replica)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - REUNION)
local part = 1
if now < reunion + REUNION then
  part = redis.call('ZCOUNT', KEYS[5], whole(reunion), '+inf') / expected
  if part >= 1 then reunion, part = 0, 1 end
end

local windows = {}
for i = 1, window_count do
  local interval, tolerance, ahead = number() / part, number(), number()
  local tat = kept['tat' .. i]
  if not tat then tat = now + tolerance end
  if adopts then
    -- No burst, and the last slot may have been just now: a loss only makes us slower.
    tat = math.max(tat, now + (ahead or 0), now + tolerance + interval + look_ahead)
  end
  tat = math.min(tat, math.max(now, pause) + tolerance + math.max(AHEAD_MAX, interval))
  windows[i] = {interval = interval, tat = tat, burst = tolerance,
    tolerance = math.max(0, tolerance - unsure)}
end
local interval_at_ceiling = windows[1].interval
local function adapt()
  windows[1].interval = math.max(interval_at_ceiling, 1000000 / rate() / part)
end

-- When the call with so many before it may go, if all who are missed come back meanwhile.
local function slot_of(rank)
  local slot = math.max(now, pause)
  for _, window in ipairs(windows) do
    slot = math.max(slot,
      math.max(window.tat, now) + rank * window.interval * part - window.tolerance)
  end
  return slot
end

local function take(slot)
  for _, window in ipairs(windows) do
    window.tat = math.max(window.tat, slot) + window.interval
  end
  if learned then learned.calls = learned.calls + 1 end
end

local function suffer(pause_us, told)
  local seconds = pause_us / 1000000
  if not learned or now >= learned.epoch then
    local current = rate()
    if told and told * TOLD_PART < current then
      learned = {goal = told * TOLD_PART, low = told * TOLD_PART}
    else
      local goal = current
      if learned and learned.calls >= MEASURE_CALLS then
        local since = (now - learned.cut) / 1000000
        if since <= MEASURE_WITHIN then goal = math.min(current, learned.calls / since) end
      end
      learned = {goal = goal, low = goal * CUT}
    end
    learned.cut, learned.epoch, learned.calls = now, now + seconds * 1000000, 0
  end
  pause = math.max(pause, now + pause_us)
  windows[1].tat = math.max(windows[1].tat, pause + windows[1].burst)
  adapt()
end

adapt()

local told_all = false
for _ = 1, number() do
  local pause_us, told = number(), number()
  suffer(pause_us, told)
  told_all = true
end

local function refund(caller, weight)
  if redis.call('ZSCORE', KEYS[4], caller) then
    redis.call('ZINCRBY', KEYS[4], exact(-1 / weight), caller)
  end
end

for _ = 1, number() do
  local id, caller, weight = text(), text(), number()
  for i = 2, 3 do
    local tag = tonumber(redis.call('ZSCORE', KEYS[i], id) or nil)
    if tag then
      redis.call('ZREM', KEYS[i], id)
      if tag > 0 then refund(caller, weight) end
    end
  end
end

local function owner_of(id) return string.sub(id, 15, 30) end
local granted, refused, waiting, others = {}, {}, {}, {}
local function tell(id, mark, value, own)
  if owner_of(id) == replica then
    own[#own + 1] = id
    own[#own + 1] = whole(value)
  else
    others[#others + 1] = id .. mark .. whole(value)
  end
end

local length = {[2] = redis.call('ZCARD', KEYS[2]), [3] = redis.call('ZCARD', KEYS[3])}

local function wait_for(which, start, id)
  local rank = id and redis.call('ZRANK', KEYS[which], id)
    or redis.call('ZCOUNT', KEYS[which], '-inf', exact(start))
  if which == 3 then
    rank = rank + math.min(length[2], (BULK_EVERY - 1) * (rank + 1))
  else
    rank = rank + math.min(length[3], math.floor(rank / (BULK_EVERY - 1)))
  end
  return slot_of(rank) - now
end

local function remove(which, id)
  length[which] = length[which] - redis.call('ZREM', KEYS[which], id)
end

local function has_spare()
  if length[2] + length[3] > 0 or now < pause then return false end
  for _, window in ipairs(windows) do
    if window.tat + window.interval - window.tolerance / 2 > now then return false end
  end
  return true
end

local function makes_room(which, start)
  local last = length[3] > 0 and 3 or 2
  local victim = redis.call('ZRANGE', KEYS[last], -1, -1, 'WITHSCORES')
  local id, tag = victim[1], tonumber(victim[2])
  if (last == which and tag <= start) or last < which then return false end
  tell(id, '!', wait_for(last, tag, id), refused)
  remove(last, id)
  waiting[id] = nil
  return true
end

local function start_of(caller)
  return math.max(vtime, tonumber(redis.call('ZSCORE', KEYS[4], caller) or 0))
end

local function is_full(start, weight) return (start - vtime) * weight >= caller_max end

local function enter(id, caller, weight, which, patience, tag)
  local held = tonumber(redis.call('ZSCORE', KEYS[which], id) or nil)
  if tag then patience = patience * DOOMED_FACTOR + DOOMED_MORE end
  local start = held or tag or start_of(caller)
  local wait = wait_for(which, start, held and id)
  if held then
    if wait > patience then
      remove(which, id)
      tell(id, '!', wait, refused)
    else
      waiting[id] = start
    end
    return
  end
  local greedy = not tag and is_full(start, weight)
  if wait > patience or greedy
    or (length[2] + length[3] >= queue_max and not makes_room(which, start)) then
    tell(id, '!', wait, refused)
    return
  end
  if not tag then redis.call('ZADD', KEYS[4], exact(start + 1 / weight), caller) end
  redis.call('ZADD', KEYS[which], exact(start), id)
  length[which] = length[which] + 1
  waiting[id] = start
end

for _ = 1, number() do
  local id, caller, weight, priority, patience, tag =
    text(), text(), number(), text(), number(), number()
  if priority ~= 'spare' then
    enter(id, caller, weight, priority == 'bulk' and 3 or 2, patience, tag)
  elseif has_spare() then
    take(now)
    tell(id, '=', now, granted)
  else
    tell(id, '!', 0, refused)
  end
end

-- A call that several wait for takes the best of their places; whoever has that one is charged.
local lent = {}
local function take_best_place(id, payer, weight, which, waiters)
  local held = tonumber(redis.call('ZSCORE', KEYS[which], id) or nil)
  waiting[id] = held
  if not held or held == 0 then return end
  local best, lender
  for i, one in ipairs(waiters) do
    local start = one.caller == payer and held or start_of(one.caller)
    if (one.caller == payer or not is_full(start, one.weight)) and (not best or start < best) then
      best, lender = start, i
    end
  end
  if not best then
    tell(id, '!', wait_for(which, held, id), refused)
    remove(which, id)
    waiting[id] = nil
    refund(payer, weight)
  elseif waiters[lender].caller ~= payer then
    refund(payer, weight)
    redis.call('ZADD', KEYS[4], exact(best + 1 / waiters[lender].weight), waiters[lender].caller)
    redis.call('ZADD', KEYS[which], exact(best), id)
    waiting[id] = best
    lent[#lent + 1] = id
    lent[#lent + 1] = lender
  end
end

for _ = 1, number() do
  local id, payer, weight, which = text(), text(), number(), text() == 'bulk' and 3 or 2
  local waiters = {}
  for i = 1, number() do waiters[i] = {caller = text(), weight = number()} end
  take_best_place(id, payer, weight, which, waiters)
end

local living = {[replica] = true}
local function lives(owner)
  if living[owner] == nil then
    local seen = tonumber(redis.call('ZSCORE', KEYS[5], owner) or nil)
    living[owner] = seen ~= nil and seen > now - LIFE
  end
  return living[owner]
end

while length[2] + length[3] > 0 do
  local slot = slot_of(0)
  if slot > now + look_ahead then break end
  local bulk = length[3] > 0 and (length[2] == 0 or turns % BULK_EVERY == BULK_EVERY - 1)
  local which = bulk and 3 or 2
  local first = redis.call('ZRANGE', KEYS[which], 0, 0, 'WITHSCORES')
  local id, tag = first[1], tonumber(first[2])
  if not id then break end
  remove(which, id)
  waiting[id] = nil
  if lives(owner_of(id)) then  -- a slot for one who is gone would be lost
    take(slot)
    turns = turns + 1
    vtime = math.max(vtime, tag)
    tell(id, '=', slot, granted)
  end
end

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', exact(vtime))
version = version + 1
local fields = {'reunion', whole(reunion), 'expected', expected, 'version', whole(version),
  'vtime', exact(vtime), 'pause', whole(pause), 'turns', turns}
for i, window in ipairs(windows) do
  fields[#fields + 1] = 'tat' .. i
  fields[#fields + 1] = whole(window.tat)
end
local lesson = {'-', '-', '-', '-', '-'}
if learned then
  lesson = {exact(learned.goal), exact(learned.low), whole(learned.cut), whole(learned.epoch),
    whole(learned.calls)}
  for i, name in ipairs({'goal', 'low', 'cut', 'epoch', 'calls'}) do
    fields[#fields + 1] = name
    fields[#fields + 1] = lesson[i]
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('EXPIRE', KEYS[1], 604800)
for i = 2, 5 do redis.call('EXPIRE', KEYS[i], 3600) end

local following = length[2] + length[3] > 0 and whole(slot_of(0) - look_ahead) or '-'
if gathers then others[#others + 1] = '*' end
if #others > 0 or told_all then
  redis.call('PUBLISH', channel, table.concat({'queue', line, whole(now), whole(pause),
    following, table.concat(others, ' ')}, ' '))
end

local reply = {whole(now), whole(version), exact(vtime), whole(pause), following,
  length[2] + length[3]}
for _, value in ipairs(lesson) do reply[#reply + 1] = value end
for _, window in ipairs(windows) do reply[#reply + 1] = whole(window.tat) end
local tags = {}
for id, tag in pairs(waiting) do
  tags[#tags + 1] = id
  tags[#tags + 1] = exact(tag)
end
for _, list in ipairs({granted, refused, tags, lent}) do
  reply[#reply + 1] = #list / 2
  for _, value in ipairs(list) do reply[#reply + 1] = value end
end
return table.concat(reply, ' ')
