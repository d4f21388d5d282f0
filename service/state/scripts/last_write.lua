-- last_write() -> {run, status}
--
-- Says which process answers and whether it could write its file: two words of INFO, which is long. Changes nothing.
--
-- Result: the id of this run of the server; "ok", "err", or "off" where it keeps no append-only file.
-- Cluster: no key; never asked on one.

local file = redis.call('INFO', 'persistence')
local run = redis.call('INFO', 'server'):match('run_id:(%x+)')
if file:match('aof_enabled:(%d)') ~= '1' then return {run, 'off'} end
return {run, file:match('aof_last_write_status:(%a+)')}
