-- Apply one replica's batch to the queue of a budget, in one round trip. The batch has the calls
-- that leave, the cloud's 429s, the calls that enter, and the waiters of shared calls. Then the
-- script grants the slots that are due, in fair order, to the calls of any replica. The algorithm
-- is that of gateway/domain/queue/fair_queue.py and adaptation.py.
--
-- KEYS: state, interactive queue, bulk queue, finish tags, live replicas.
-- ARGV: one string of words, written by fair_queue.py in the parent folder, `-` for unknown values.
-- The result is one string as well: sending forty arguments takes longer than running the script.
-- Durations and instants are whole microseconds of this server's clock. Replicas send an instant as
-- its distance from now, which stays valid after a failover to a server with another clock.
-- Numbers are formatted explicitly: Lua's tostring has 14 digits only.
local MARGIN, NAMED_MARGIN, CUT, FLOOR = 0.96, 0.97, 0.9, 0.01
local FLAT_GUESS, FLAT, FLAT_MAX, GROWTH_GUESS, GROWTH, STALE = 3, 10, 40, 4, 9, 120
local GROWN, RISEN, STEP, SAME = 0.06, 1.2, 1.15, 0.16
local CERTAIN_RATIO, CERTAIN, CERTAIN_PAUSE, LONGER, SATURATED = 1.8, 1.5, 2000000, 1.3, 0.8
local BULK_EVERY, OVERDUE_FACTOR, OVERDUE_MORE = 8, 1.25, 500000
local AHEAD_MAX, PAUSE_MAX, REPLICA_TTL, REUNION = 5000000, 300000000, 1500000, 2500000

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local text = string.gmatch(ARGV[1], '%S+')
local function number() return tonumber(text()) end
local function whole(value) return string.format('%.0f', value) end
local function exact(value) return string.format('%.17g', value) end

local replica, former, channel, queue = text(), text(), text(), text()
local queue_max, caller_max, ceiling, window_count = number(), number(), number(), number()
local look_ahead, known_version, known_vtime = number(), number(), number()
local known_pause, returned = number(), number()
local known = {goal = number(), flat = number(), cut = number(), epoch = number(),
  calls = number(), last_calls = number(), last = number(), probe = number()}
local clock_error = number()

-- The stored state. The replica's state is merged into it if the server lost its state or is behind
-- (a failover that lost the last writes), or if the replica returns from the local fallback.
local stored = {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do stored[flat[i]] = tonumber(flat[i + 1]) end

-- After the clock was set back, or a failover to a server whose clock is behind, stored instants
-- keep their distance from now. A clock that was set forward looks like elapsed time.
local set_back = (stored.now or now) - now
if set_back > 0 then
  local instants = {'pause', 'cut', 'epoch', 'reunion'}
  for i = 1, window_count do instants[#instants + 1] = 'tat' .. i end
  for _, name in ipairs(instants) do stored[name] = stored[name] and stored[name] - set_back end
  for _, member in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
    redis.call('ZINCRBY', KEYS[5], exact(-set_back), member)
  end
end

local version = stored.version or 0
local merges = returned > 0 or version < known_version
local vtime, pause = stored.vtime or 0, stored.pause or 0
if merges then
  version = math.max(version, known_version)
  vtime = math.max(vtime, known_vtime)
  pause = math.max(pause, now + known_pause)
end
pause = math.min(pause, now + PAUSE_MAX)
local turns = stored.turns or 0

local learned = nil
if stored.goal then
  learned = {goal = stored.goal, flat = stored.flat, cut = stored.cut, epoch = stored.epoch,
    calls = stored.calls, last_calls = stored.last_calls, last = stored.last, probe = stored.probe}
end
if merges and known.goal and (not learned or now - known.cut > learned.cut + 1000000) then
  known.cut, known.epoch = now - known.cut, now + known.epoch
  learned = known
end

local function rate()
  if not learned then return ceiling end
  local past = math.max(0, (now - learned.epoch) / 1000000 - learned.flat)
  local growth = past / (learned.flat < FLAT and GROWTH_GUESS or GROWTH)
  local grown = learned.goal * (MARGIN + growth * growth * growth)
  return math.min(ceiling, math.max(FLOOR * ceiling, grown))
end

-- After the local fallback replicas return one by one. Each return starts a roll call: until every
-- replica has called since, the shares of replicas that may still be in fallback stay reserved.
local reunion, expected = stored.reunion or 0, stored.expected or 0
local starts_roll_call = returned > 0
if starts_roll_call then
  expected = math.max(now < reunion + REUNION and expected or 0, returned)
  reunion = now
end
if former ~= '-' then redis.call('ZREM', KEYS[5], former) end
redis.call('ZADD', KEYS[5], now, replica)
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - REUNION)
local share = 1
if now < reunion + REUNION then
  share = redis.call('ZCOUNT', KEYS[5], whole(reunion), '+inf') / expected
  if share >= 1 then reunion, share = 0, 1 end
end

local windows = {}
for i = 1, window_count do
  local interval, tolerance, ahead = number() / share, number(), number()
  local tat = stored['tat' .. i]
  if not tat then tat = now + tolerance end
  if merges then
    -- No burst, and the last slot may have been now: lost state only lowers the rate.
    tat = math.max(tat, now + (ahead or 0), now + tolerance + interval + look_ahead)
  end
  tat = math.min(tat, math.max(now, pause) + tolerance + math.max(AHEAD_MAX, interval))
  windows[i] = {interval = interval, tat = tat, burst = tolerance,
    tolerance = math.max(0, tolerance - clock_error)}
end
local interval_at_ceiling = windows[1].interval
local function adapt()
  windows[1].interval = math.max(interval_at_ceiling, 1000000 / rate() / share)
end

-- The slot of the call at position `rank`, if all missing replicas return until then.
local function slot_of(rank)
  local slot = math.max(now, pause)
  for _, window in ipairs(windows) do
    slot = math.max(slot,
      math.max(window.tat, now) + rank * window.interval * share - window.tolerance)
  end
  return slot
end

local function take(slot)
  for _, window in ipairs(windows) do
    window.tat = math.max(window.tat, slot) + window.interval
  end
  if learned then learned.calls = learned.calls + 1 end
end

-- The limit measured since the last 429; false without enough calls.
local function measure(found, current)
  local active, calls = (now - learned.epoch) / 1000000, learned.calls - 1
  if calls < 1 or learned.calls < SATURATED * MARGIN * learned.goal * active then return false end
  local least = math.min(current, calls / ((now - learned.cut) / 1000000))
  local certain
  if learned.last > 0 and LONGER * learned.last < active then
    local difference = (calls - learned.last_calls) / (active - learned.last)
    found.goal = math.min(current, math.max(least, difference))
    certain = active > CERTAIN
  else
    found.goal = math.sqrt(least * current)
    local is_short = learned.epoch - learned.cut <= CERTAIN_PAUSE
    certain = is_short and current < CERTAIN_RATIO * least
  end
  found.flat = certain and FLAT or FLAT_GUESS
  found.last_calls, found.last, found.probe = calls, active, learned.probe
  return true
end

-- The estimate after the rate grew until this 429.
local function probe(found, current)
  local flat = MARGIN * learned.goal
  local mean = flat + (current - flat) / 4
  if learned.flat < FLAT or (learned.probe > 0 and RISEN * learned.probe < current) then
    found.goal = math.sqrt(mean * current)
  else
    local middle = learned.probe > 0 and mean or math.sqrt(learned.goal * current)
    found.goal = math.max(learned.goal, math.min(middle, STEP * learned.goal))
    found.flat, found.probe = FLAT, math.max(current, learned.probe)
  end
end

local function estimate(found, current)
  if current > learned.goal * (MARGIN + GROWN) then
    probe(found, current)
  elseif not measure(found, current) then
    return
  end
  if math.abs(found.goal - learned.goal) <= SAME * learned.goal then
    found.flat = math.min(FLAT_MAX, math.max(FLAT, 2 * learned.flat))
  end
end

local function learn(pause_us, named_rate)
  local current = rate()
  local found = {goal = current * CUT / MARGIN, flat = FLAT_GUESS, cut = now,
    epoch = now + pause_us, calls = 0, last_calls = 0, last = 0, probe = 0}
  if named_rate and named_rate * NAMED_MARGIN < current then
    found.goal, found.flat = named_rate * NAMED_MARGIN / MARGIN, FLAT
  elseif learned and now - learned.epoch <= STALE * 1000000 then
    estimate(found, current)
  end
  found.goal = math.max(FLOOR * ceiling, found.goal)
  learned = found
end

local function throttle(pause_us, named_rate)
  if not learned or now >= learned.epoch then
    learn(pause_us, named_rate)
  elseif learned.last > 0 then
    learned.last_calls = learned.last_calls - 1
  end
  pause = math.max(pause, now + pause_us)
  windows[1].tat = math.max(windows[1].tat, pause + windows[1].burst)
  adapt()
end

adapt()

local is_throttled = false
for _ = 1, number() do
  local pause_us, named_rate = number(), number()
  throttle(pause_us, named_rate)
  is_throttled = true
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
local function report(id, mark, value, own)
  if owner_of(id) == replica then
    own[#own + 1] = id
    own[#own + 1] = whole(value)
  else
    others[#others + 1] = id .. mark .. whole(value)
  end
end

local length = {[2] = redis.call('ZCARD', KEYS[2]), [3] = redis.call('ZCARD', KEYS[3])}

local function wait_of(which, start, id)
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
  report(id, '!', wait_of(last, tag, id), refused)
  remove(last, id)
  waiting[id] = nil
  return true
end

local function start_of(caller)
  return math.max(vtime, tonumber(redis.call('ZSCORE', KEYS[4], caller) or 0))
end

local function is_full(start, weight) return (start - vtime) * weight >= caller_max end

local function enter(id, caller, weight, which, timeout, tag)
  local held = tonumber(redis.call('ZSCORE', KEYS[which], id) or nil)
  if tag then timeout = timeout * OVERDUE_FACTOR + OVERDUE_MORE end
  local start = held or tag or start_of(caller)
  local wait = wait_of(which, start, held and id)
  if held then
    if wait > timeout then
      remove(which, id)
      report(id, '!', wait, refused)
    else
      waiting[id] = start
    end
    return
  end
  local greedy = not tag and is_full(start, weight)
  if wait > timeout or greedy
    or (length[2] + length[3] >= queue_max and not makes_room(which, start)) then
    report(id, '!', wait, refused)
    return
  end
  if not tag then redis.call('ZADD', KEYS[4], exact(start + 1 / weight), caller) end
  redis.call('ZADD', KEYS[which], exact(start), id)
  length[which] = length[which] + 1
  waiting[id] = start
end

for _ = 1, number() do
  local id, caller, weight, priority, timeout, tag =
    text(), text(), number(), text(), number(), number()
  if priority ~= 'spare' then
    enter(id, caller, weight, priority == 'bulk' and 3 or 2, timeout, tag)
  elseif has_spare() then
    take(now)
    report(id, '=', now, granted)
  else
    report(id, '!', 0, refused)
  end
end

-- Priority inheritance: a shared call takes the best place of its waiters, and that waiter is
-- charged for it.
local inherited = {}
local function inherit_priority(id, payer, weight, which, waiters)
  local held = tonumber(redis.call('ZSCORE', KEYS[which], id) or nil)
  waiting[id] = held
  if not held or held == 0 then return end
  local best, donor
  for i, one in ipairs(waiters) do
    local start = one.caller == payer and held or start_of(one.caller)
    if (one.caller == payer or not is_full(start, one.weight)) and (not best or start < best) then
      best, donor = start, i
    end
  end
  if not best then
    report(id, '!', wait_of(which, held, id), refused)
    remove(which, id)
    waiting[id] = nil
    refund(payer, weight)
  elseif waiters[donor].caller ~= payer then
    refund(payer, weight)
    redis.call('ZADD', KEYS[4], exact(best + 1 / waiters[donor].weight), waiters[donor].caller)
    redis.call('ZADD', KEYS[which], exact(best), id)
    waiting[id] = best
    inherited[#inherited + 1] = id
    inherited[#inherited + 1] = donor
  end
end

for _ = 1, number() do
  local id, payer, weight, which = text(), text(), number(), text() == 'bulk' and 3 or 2
  local waiters = {}
  for i = 1, number() do waiters[i] = {caller = text(), weight = number()} end
  inherit_priority(id, payer, weight, which, waiters)
end

local alive = {[replica] = true}
local function is_alive(owner)
  if alive[owner] == nil then
    local seen = tonumber(redis.call('ZSCORE', KEYS[5], owner) or nil)
    alive[owner] = seen ~= nil and seen > now - REPLICA_TTL
  end
  return alive[owner]
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
  if is_alive(owner_of(id)) then  -- a slot for a dead replica would be lost
    take(slot)
    turns = turns + 1
    vtime = math.max(vtime, tag)
    report(id, '=', slot, granted)
  end
end

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', exact(vtime))
version = version + 1
local fields = {'now', whole(now), 'reunion', whole(reunion), 'expected', expected,
  'version', whole(version), 'vtime', exact(vtime), 'pause', whole(pause), 'turns', turns}
for i, window in ipairs(windows) do
  fields[#fields + 1] = 'tat' .. i
  fields[#fields + 1] = whole(window.tat)
end
local learned_words = {'-', '-', '-', '-', '-', '-', '-', '-'}
if learned then
  learned_words = {exact(learned.goal), exact(learned.flat), whole(learned.cut),
    whole(learned.epoch), whole(learned.calls), whole(learned.last_calls), exact(learned.last),
    exact(learned.probe)}
  for i, name in ipairs({'goal', 'flat', 'cut', 'epoch', 'calls', 'last_calls', 'last', 'probe'}) do
    fields[#fields + 1] = name
    fields[#fields + 1] = learned_words[i]
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('EXPIRE', KEYS[1], 604800)
for i = 2, 5 do redis.call('EXPIRE', KEYS[i], 3600) end

local following = length[2] + length[3] > 0 and whole(slot_of(0) - look_ahead) or '-'
if starts_roll_call then others[#others + 1] = '*' end
if #others > 0 or is_throttled then
  redis.call('PUBLISH', channel, table.concat({'queue', queue, whole(now), whole(pause),
    following, table.concat(others, ' ')}, ' '))
end

local reply = {whole(now), whole(version), exact(vtime), whole(pause), following,
  length[2] + length[3]}
for _, value in ipairs(learned_words) do reply[#reply + 1] = value end
for _, window in ipairs(windows) do reply[#reply + 1] = whole(window.tat) end
local tags = {}
for id, tag in pairs(waiting) do
  tags[#tags + 1] = id
  tags[#tags + 1] = exact(tag)
end
for _, list in ipairs({granted, refused, tags, inherited}) do
  reply[#reply + 1] = #list / 2
  for _, value in ipairs(list) do reply[#reply + 1] = value end
end
return table.concat(reply, ' ')
