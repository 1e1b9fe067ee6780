//! The node agent: shards, links, origins, local API.
