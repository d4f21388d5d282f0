-- replay_comparison(sum, events, log, replayed; seal, event, basis, vector) -> {outcome}
--
-- Adds what a logged comparison is worth under another basis to the user's sum under that basis, once per event and basis.
-- Uses sum_records, which stands before it.
--
-- KEYS[1] string  {user}:sum:<basis>       the sum to add to: its record, see sum_records                           written here
-- KEYS[2] hash    {user}:events            the event must be known; "\1" .. basis -> "" for every basis with a sum;
--                                          "\2" -> names of all bases with replayed comparisons, joined by commas   written here
-- KEYS[3] stream  {user}:log               holds the comparison, with the basis that it was first learned under
-- KEYS[4] hash    {user}:replayed:<basis>  event id -> the vector that was added here, for taking it back           written here
-- ARGV[1] seal     17 bytes that open the user's sum record
-- ARGV[2] event    the event id
-- ARGV[3] basis    the basis id of KEYS[1] and KEYS[4]
-- ARGV[4] vector   packed doubles: epoch, observed_s, evidence...
--
-- Result: {"applied"} | {"present"}: the sum has it | {"gone"}: taken back, or no longer in the log | {"shape", doubles held}
--         | {"wrong-user"}. Only "applied" changes anything. Times to live become those of the events: a replay is no sign of life.
-- Cluster: all keys carry the user's hash tag, so they are on one slot. No other key is touched.

local seal, event, basis, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local known = redis.call('HGET', KEYS[2], event)
if not known or known:sub(25) == 'x' then return {'gone'} end
local id = known:sub(25)
local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
if not entry then return {'gone'} end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
if fields.tag ~= seal:sub(2) then return {'wrong-user'} end
if fields.basis == basis or redis.call('HEXISTS', KEYS[4], event) == 1 then return {'present'} end

local stored = redis.call('GET', KEYS[1])
local refused = stored and misfit(stored, seal, vector)
if refused then return refused end

local ttl_ms = math.max(1, redis.call('PTTL', KEYS[2]))
redis.call('SET', KEYS[1], with(stored, seal, vector), 'PX', ttl_ms)
redis.call('HSET', KEYS[4], event, vector)
redis.call('PEXPIRE', KEYS[4], ttl_ms)
local bases = redis.call('HGET', KEYS[2], '\2')
if not bases then
  bases = basis
elseif not (',' .. bases .. ','):find(',' .. basis .. ',', 1, true) then
  bases = bases .. ',' .. basis
end
redis.call('HSET', KEYS[2], '\1' .. basis, '', '\2', bases)
return {'applied'}
