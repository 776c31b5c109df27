"""The catalog's tables of batches that came: what dedupe.py remembers, across restarts.

Only what is flushed stands here: batches that are in the log alone are found there at the start,
and would otherwise be taken for their own duplicates.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from flamewell_collector.store.dedupe import AgentSequence, SeenBatches, key_of, parse_agent_id

SCHEMA = """
CREATE TABLE IF NOT EXISTS agents (
    tenant TEXT NOT NULL, agent TEXT NOT NULL, state TEXT NOT NULL, last_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, agent)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_keys (key INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL);
"""


def write(db: sqlite3.Connection, batch_ids: Iterable[tuple[str, str, int]]) -> None:
    """Add (tenant, batch id, when received) of a flush, inside the caller's transaction."""
    agents: dict[tuple[str, str], AgentSequence] = {}
    keys: list[tuple[int, int]] = []
    for tenant, batch_id, received_ms in batch_ids:
        parsed = parse_agent_id(batch_id)
        if parsed is None:
            keys.append((key_of(tenant, batch_id), received_ms))
            continue
        name = (tenant, parsed[0])
        if name not in agents:
            agents[name] = _agent(db, name)
        agents[name].add(parsed[1], parsed[2], received_ms)
    db.executemany(
        "INSERT OR REPLACE INTO agents VALUES (?, ?, ?, ?)",
        [(*name, each.to_json(), each.last_ms) for name, each in agents.items()],
    )
    db.executemany("INSERT OR REPLACE INTO batch_keys VALUES (?, ?)", keys)


def read(db: sqlite3.Connection) -> SeenBatches:
    """Give all that was written down."""
    found = SeenBatches()
    found.restore(
        (
            (tenant, agent, AgentSequence.from_json(state, last_ms))
            for tenant, agent, state, last_ms in db.execute(
                "SELECT tenant, agent, state, last_ms FROM agents"
            )
        ),
        db.execute("SELECT key, received_ms FROM batch_keys"),
    )
    return found


def forget(db: sqlite3.Connection, before_ms: int) -> None:
    """Drop what is too old to come again."""
    db.execute("DELETE FROM agents WHERE last_ms < ?", (before_ms,))
    db.execute("DELETE FROM batch_keys WHERE received_ms < ?", (before_ms,))


def _agent(db: sqlite3.Connection, name: tuple[str, str]) -> AgentSequence:
    row = db.execute(
        "SELECT state, last_ms FROM agents WHERE tenant = ? AND agent = ?", name
    ).fetchone()
    return AgentSequence() if row is None else AgentSequence.from_json(*row)
