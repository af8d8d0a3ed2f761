-- Claim as claim.lua does; a claim that takes the lease also applies a batch to the queue of the
-- budget, as fair_queue.lua does. A fetch that need not wait has its slot after one round trip.
-- KEYS: those of claim.lua, then those of fair_queue.lua. ARGV: those of claim.lua, then the batch.
-- Returns what claim.lua returns, with the result of the batch after 'claimed' and the time.
local claimed = claim(KEYS, ARGV)
if claimed[1] == 'claimed' then
  claimed[3] = fair_queue({KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]}, {ARGV[5]})
end
return claimed
