-- receive_entry(events, log; event, check, kind, token, basis, body, max_log, ttl_ms, replayed_prefix, sum_prefix, basis, packed...) -> {outcome}
--
-- Moves one log entry of a user who was parted to the log of another one, once. Uses user_log; receive_sums came before.
--
-- KEYS[1] hash  {user}:events  see user_log; the event must be known and in no log                                    written here
-- KEYS[2] list  {user}:log     see user_log                                                                            written here
-- ARGV[1] event  12 bytes of the event id's hash
-- ARGV[2] check  4 bytes of this user's tag
-- ARGV[3] kind   "c" or "x"
-- ARGV[4] token  4 bytes, as they were
-- ARGV[5] basis  under which it was learned
-- ARGV[6] body   what the entry holds behind its head
-- ARGV[7] max_log, ARGV[8] ttl_ms, ARGV[9] replayed_prefix: as for add_comparison
-- ARGV[10] sum_prefix  "{user}:sum:"
-- ARGV[11...] pairs  basis; what was replayed of it there, packed                                                      written here
--
-- Result: {"kept"} | {"present"}: this user's log has or had it, or it is not kept here. Only "kept" changes anything.
-- Cluster: all keys carry the receiving user's hash tag, so they are on one slot. No other key is touched.

local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or tonumber(ARGV[7]) == 0 then return {'present'} end
local place = place_of(known)
if place ~= 0 and place ~= TAKEN_BACK then return {'present'} end

local head = ARGV[3] .. ARGV[2] .. ARGV[4] .. struct.pack('<I2', basis_number(KEYS[1], ARGV[5]))
local number = append(KEYS[1], KEYS[2], head .. ARGV[6], tonumber(ARGV[7]), ARGV[9])
for at = 11, #ARGV, 2 do redis.call('HSET', ARGV[9] .. ARGV[at], struct.pack('<I4', number), ARGV[at + 1]) end
redis.call('HSET', KEYS[1], ARGV[1], known:sub(1, 8) .. struct.pack('<I4', place + number))
live_for(ARGV[8], KEYS[1], KEYS[2], ARGV[10], ARGV[9])
return {'kept'}
