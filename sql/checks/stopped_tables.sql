-- Tables that the server has suspended (rows wait in their WAL: ALTER TABLE name RESUME WAL) and views that it no
-- longer refreshes (`recorder schema --apply` makes them anew where nothing is lost by it).
SELECT name, 'suspended' state, errorMessage reason FROM wal_tables() WHERE suspended
UNION ALL
SELECT view_name name, view_status state, invalidation_reason reason
FROM materialized_views()
WHERE view_status = 'invalid';
