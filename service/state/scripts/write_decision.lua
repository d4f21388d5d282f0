-- write_decision(record, index, last, deleted [, pointer]; sealed record, id, ttl_ms, max_decisions, decision_prefix, last member, if, era
--                [, pointer value]) -> {outcome, id...}
--
-- Keeps one decision record, listed so that deleting its user finds it without SCAN.
--
-- KEYS[1] string  {user}:decision:<id>  the sealed record, for ttl_ms
-- KEYS[2] zset    {user}:decisions      decision id -> when its pointer expires, server time in ms
-- KEYS[3] string  {user}:last           the sealed name of the member that served last, for twice ttl_ms
-- KEYS[4] string  {user}:deleted        the mark of a deletion, for a while: its era
-- KEYS[5] string  {tenant, id}          the pointer to the user, for twice ttl_ms; absent on a cluster, where the caller wrote it before
-- ARGV[1] sealed record
-- ARGV[2] id               the decision id
-- ARGV[3] ttl_ms           time to live of the record
-- ARGV[4] max_decisions    listed per user
-- ARGV[5] decision_prefix  "{user}:decision:", to name the records that are over the limit
-- ARGV[6] last member      sealed; empty to leave KEYS[3] as it is
-- ARGV[7] if               "XX" to write only where the record is still there, or the sealed record that must be there, else ""
-- ARGV[8] era              "=" and the mark that this request saw when it began, which may be empty; or "" to ask for none
-- ARGV[9] pointer value    with KEYS[5]; an update keeps the value that is there, which names former users too
--
-- Result: {"absent"}: the record is not there any more | {"deleted"}: the user was deleted since this request began | {"changed"}: another record
--         is there, perhaps this one, sent before; all three change nothing
--         | {"kept", id...}: ids over the limit (oldest first, at most 100): their records are gone, and the caller removes their pointers and then their
--         index entries; until it has, they are returned again.
-- Cluster: KEYS[1] to KEYS[4] and the records named by the prefix carry the user's hash tag: one slot. KEYS[5] is given off a cluster only.

local id, ttl_ms = ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local pointer_ms = 2 * ttl_ms

local mark = redis.call('GET', KEYS[4])
if ARGV[8] ~= '' and mark and '=' .. mark ~= ARGV[8] then return {'deleted'} end
if ARGV[7] ~= '' then
  local there = redis.call('GET', KEYS[1])
  if not there then return {'absent'} end
  if ARGV[7] ~= 'XX' and there ~= ARGV[7] then return {'changed'} end
end

if KEYS[5] and (ARGV[7] == '' or redis.call('PEXPIRE', KEYS[5], string.format('%.0f', pointer_ms)) == 0) then
  redis.call('SET', KEYS[5], ARGV[9], 'PX', string.format('%.0f', pointer_ms))
end
if ARGV[6] ~= '' then redis.call('SET', KEYS[3], ARGV[6], 'PX', string.format('%.0f', pointer_ms)) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now_ms))
redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms + pointer_ms), id)
if redis.call('PTTL', KEYS[2]) < pointer_ms then redis.call('PEXPIRE', KEYS[2], string.format('%.0f', pointer_ms)) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])

local over = redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[4])
if over <= 0 then return {'kept'} end
if over > 100 then over = 100 end
local oldest = redis.call('ZRANGE', KEYS[2], 0, over - 1)
for _, old in ipairs(oldest) do redis.call('UNLINK', ARGV[5] .. old) end
return {'kept', unpack(oldest)}
