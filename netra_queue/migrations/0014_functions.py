"""PostgreSQL's functions for what is done most often: see ``stores.functions``."""

from typing import Any

from django.db import migrations

# Plans of functions are kept, and may be made while the tables are all but empty. So each table is looked up by a key of
# its own, in a statement that leaves the planner nothing else: an OR, or a join, it would answer by reading all of it, and
# what has not expired by reading the index of expiry, were it not for IS TRUE. A read walks along its index: a bitmap would
# be of all that a queue has, and of what is deleted and not vacuumed yet.
PUT_ONE = """
CREATE FUNCTION netra_queue_put_one(
    asked bigint, line bigint, since timestamptz, uid text, priority smallint, kind smallint, payload text, size integer,
    created_at timestamptz, expires_at timestamptz, traceparent text, not_before timestamptz,
    OUT place bigint, OUT servers text[]
) LANGUAGE plpgsql SET enable_seqscan TO off AS $$
DECLARE
    is_its_line boolean;
BEGIN
    SELECT coalesce(bool_and(q.id = line), line = asked) INTO is_its_line FROM (
        SELECT id, seen_at FROM netra_queue_queue WHERE parent_id = asked
        UNION ALL SELECT id, seen_at FROM netra_queue_queue WHERE id = asked
    ) AS q WHERE q.seen_at IS NOT NULL AND (
        q.seen_at > since
        OR (SELECT c.server_id FROM netra_queue_liveconnection c WHERE c.queue_id = q.id LIMIT 1) IS NOT NULL
    );
    IF is_its_line THEN
        servers := ARRAY(SELECT c.server_id FROM netra_queue_liveconnection c WHERE c.queue_id = line);
        INSERT INTO netra_queue_message AS m (
            queue_id, uid, priority, kind, payload, size, created_at, expires_at, traceparent, not_before, flags, deliveries
        ) VALUES (line, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0) RETURNING m.id INTO place;
    END IF;
END $$
"""
READ = """
CREATE FUNCTION netra_queue_read(wanted json, short_bytes integer, moment timestamptz)
RETURNS TABLE (
    number integer, until timestamptz, id bigint, priority smallint, size integer, deliveries smallint, uid text,
    kind smallint, created_at bigint, flags smallint, traceparent text, payload text
) LANGUAGE plpgsql SET enable_seqscan TO off SET enable_bitmapscan TO off SET jit TO off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.n, pause.until, next.*
    FROM json_to_recordset(wanted) AS r(n integer, q bigint, b bigint, l integer, x int8multirange)
    LEFT JOIN LATERAL (
        SELECT coalesce(p.paused_until, '9999-01-01 00:00:00+00') AS until FROM netra_queue_queue p
        WHERE p.id IN (r.q, r.b) AND p.paused_at IS NOT NULL AND (p.paused_until IS NULL OR p.paused_until > moment)
        ORDER BY 1 DESC LIMIT 1
    ) AS pause ON true
    LEFT JOIN LATERAL (
        SELECT m.id, m.priority, m.size, m.deliveries, m.uid::text, m.kind,
               (extract(epoch FROM m.created_at) * 1000000)::bigint, m.flags, m.traceparent::text,
               CASE WHEN m.size <= short_bytes AND m.body_id IS NULL THEN m.payload END
        FROM netra_queue_message m
        WHERE pause.until IS NULL AND m.queue_id = r.q AND (m.expires_at > moment) IS TRUE
            AND (m.not_before IS NULL OR m.not_before <= moment) AND NOT m.id <@ r.x
        ORDER BY m.priority, m.id LIMIT r.l
    ) AS next ON true;
END $$
"""
DROP_PUT_ONE = """
DROP FUNCTION netra_queue_put_one(
    bigint, bigint, timestamptz, text, smallint, smallint, text, integer, timestamptz, timestamptz, text, timestamptz
)
"""
DROP_READ = "DROP FUNCTION netra_queue_read(json, integer, timestamptz)"


class OnPostgreSQL(migrations.RunSQL):
    """Other databases need nothing of it."""

    def database_forwards(self, app_label: Any, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(self, app_label: Any, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = [
        ("netra_queue", "0013_details"),
    ]

    operations = [OnPostgreSQL([PUT_ONE], [DROP_PUT_ONE]), OnPostgreSQL([READ], [DROP_READ])]
