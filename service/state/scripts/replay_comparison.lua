-- replay_comparison(sum, events, log, replayed; seal, event, basis, vector, packed, own) -> {outcome}
--
-- Adds what a logged comparison is worth under another basis to the user's sum under that basis, once per event and basis.
-- Uses sum_records and user_log.
--
-- KEYS[1] string  {user}:sum:<basis>       the sum to add to: its record, see sum_records                           written here
-- KEYS[2] hash    {user}:events            see user_log; the event must be known                                    written here
-- KEYS[3] list    {user}:log               see user_log; holds the comparison, with the basis that it was first learned under
-- KEYS[4] hash    {user}:replayed:<basis>  number of the entry (4 bytes) -> the vector that was added here, as codec.py packs it, and a
--                                          payload behind it: for taking it back                                    written here
-- ARGV[1] seal     17 bytes that open the user's sum record
-- ARGV[2] event    12 bytes of the event id's hash
-- ARGV[3] basis    the basis id of KEYS[1] and KEYS[4]
-- ARGV[4] vector   packed doubles: epoch, observed_s, evidence...
-- ARGV[5] packed   the same, as it is kept, and the payload behind it
-- ARGV[6] own      "1" where the payload is this request's alone: a client that repeats it because it lost the answer is told of what it did
--
-- Result: {"applied"}: now or by this very request | {"present"}: the sum has it | {"gone"}: taken back, deleted, or no longer in the log | {"shape", doubles held}
--         | {"wrong-user"}. Only "applied" changes anything. Times to live become those of the events: a replay is no sign of life.
-- Cluster: all keys carry the user's hash tag, so they are on one slot. No other key is touched.

local seal, event, basis, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local known = redis.call('HGET', KEYS[2], event)
local place = known and place_of(known)
local entry = known and place < TAKEN_BACK and entry_at(KEYS[2], KEYS[3], place)
if not entry then return {'gone'} end
if entry:sub(2, 5) ~= seal:sub(2, 5) then return {'wrong-user'} end
local field = struct.pack('<I4', place)
local learned_under = bases_of(KEYS[2])[struct.unpack('<I2', entry, 10) + 1]
if learned_under == basis then return {'present'} end
local replayed = redis.call('HGET', KEYS[4], field)
if replayed then return {ARGV[6] == '1' and replayed == ARGV[5] and 'applied' or 'present'} end

local stored = redis.call('GET', KEYS[1])
local refused = stored and misfit(stored, seal, vector)
if refused then return refused end

local ttl_ms = math.max(1, redis.call('PTTL', KEYS[2]))
redis.call('SET', KEYS[1], with(stored, seal, vector), 'PX', ttl_ms)
redis.call('HSET', KEYS[4], field, ARGV[5])
redis.call('PEXPIRE', KEYS[4], ttl_ms)
basis_number(KEYS[2], basis)
return {'applied'}
