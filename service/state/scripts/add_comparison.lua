-- add_comparison(sum, events, log, deleted, refused, moved; seal, event, digest, basis, vector, body, max_log, ttl_ms, token, replayed_prefix, era)
--   -> {outcome [, sum record]}
--
-- Adds one comparison to a user's sum, once per event id for as long as the user lives, and logs it. Uses sum_records and user_log.
--
-- KEYS[1] string  {user}:sum:<basis>   the sum to add to: its record, see sum_records                              written here
-- KEYS[2] hash    {user}:events        see user_log                                                                written here
-- KEYS[3] list    {user}:log           see user_log                                                                written here
-- KEYS[4] string  {user}:deleted       the mark of a deletion, for a while: its era, 8 bytes
-- KEYS[5] set     {user}:refused       the events that were deleted with the user, as long as the mark
-- KEYS[6] hash    {user}:moved         the events that went to another user when this one was merged
-- ARGV[1] seal     17 bytes that open the user's sum record
-- ARGV[2] event    12 bytes of the event id's hash
-- ARGV[3] digest   8 bytes of the canonical body's
-- ARGV[4] basis    the basis id
-- ARGV[5] vector   packed doubles: epoch, observed_s, evidence...
-- ARGV[6] body     what the entry of the log holds behind its head: event id, vector and payload, packed
-- ARGV[7] max_log  entries kept in the log; 0 keeps none
-- ARGV[8] ttl_ms   time to live of all sums, events, log and replays, set together
-- ARGV[9] token    4 random bytes of this request: a client that repeats a request whose answer it lost hears "applied", not "duplicate"
-- ARGV[10] replayed_prefix  "{user}:replayed:"
-- ARGV[11] era     "=" and the mark that this request saw when it began, which may be empty; or "" to ask for none
--
-- Result: {"applied", record} | {"duplicate", record or nil} | {"conflict"} | {"taken-back"} | {"shape", doubles held} | {"wrong-user"}
--         | {"refused"}: the event was deleted with the user | {"deleted"}: the user was, since this request began, or
--         {"merged"}: into another one.
--         Only the first "applied" changes anything.
-- Cluster: all keys carry the user's hash tag, sums and replays of other bases too, so they are on one slot. No other key is touched.

local seal, event, digest, basis, vector = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_log, ttl_ms, token, replayed_prefix = tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]

local known = redis.call('HGET', KEYS[2], event)
if known then
  local place = place_of(known)
  if place >= TAKEN_BACK then return {'taken-back'} end
  if known:sub(1, 8) ~= digest then return {'conflict'} end
  local sent
  if place >= NEVER_LOGGED then
    sent = struct.pack('<I4', place - NEVER_LOGGED)
  else
    sent = (entry_at(KEYS[2], KEYS[3], place) or ''):sub(6, 9)
  end
  return {sent == token and 'applied' or 'duplicate', redis.call('GET', KEYS[1])}
end
local moved = redis.call('HGET', KEYS[6], event)
if moved then
  if place_of(moved) >= TAKEN_BACK then return {'taken-back'} end
  if moved:sub(1, 8) ~= digest then return {'conflict'} end
  return {'duplicate', redis.call('GET', KEYS[1])}
end
if redis.call('SISMEMBER', KEYS[5], event) == 1 then return {'refused'} end
local mark = redis.call('GET', KEYS[4])
if ARGV[11] ~= '' and mark and '=' .. mark ~= ARGV[11] then
  return {redis.call('EXISTS', KEYS[6]) == 1 and 'merged' or 'deleted'}
end

local stored = redis.call('GET', KEYS[1])
local refused = stored and misfit(stored, seal, vector)
if refused then return refused end

local record = with(stored, seal, vector)
redis.call('SET', KEYS[1], record)
local number = basis_number(KEYS[2], basis)
local entry = 'c' .. seal:sub(2, 5) .. token .. struct.pack('<I2', number) .. ARGV[6]
local place = append(KEYS[2], KEYS[3], entry, max_log, replayed_prefix)
if max_log == 0 then place = NEVER_LOGGED + struct.unpack('<I4', token) end
redis.call('HSET', KEYS[2], event, digest .. struct.pack('<I4', place))

live_for(ttl_ms, KEYS[2], KEYS[3], KEYS[1]:sub(1, -#basis - 1), replayed_prefix)
return {'applied', record}
