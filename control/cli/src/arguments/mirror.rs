//! `hawker mirror`: what the registry mirror of an agent remembers of tags.

use clap::{Args, Subcommand};

use super::inspect::Target;

const LONG: &str = "\
The agent remembers what tags stood for when their registries were asked last. By default it asks again at each pull, and \
what it remembers counts only while the registry is away; a tag that a [[mirror.tags]] rule of the settings file pins, or \
believes for some time, is answered from memory. These commands show that memory and take tags out of it.";

const EXAMPLES: &str = "\
Examples:
  hawker mirror ls
  hawker mirror ls --json | jq -r '.tags[] | select(.age_ms > 86400000) | .name'
  hawker mirror invalidate docker.io/library/nginx:1.27";

/// Show or forget what the registry mirror remembers of tags
#[derive(Args, Debug)]
#[command(long_about = LONG, after_long_help = EXAMPLES)]
pub(crate) struct MirrorArguments {
    #[command(subcommand)]
    pub(crate) command: MirrorCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    Ls(MirrorListArguments),
    Invalidate(MirrorInvalidateArguments),
}

/// List the tags that the agent remembers
#[derive(Args, Debug)]
#[command(long_about = "\
Lists the tags that the agent remembers: how long ago the registry said so, whether it gives them to anybody, the digest, \
and the name: REGISTRY/REPOSITORY:TAG, or REGISTRY/REPOSITORY@DIGEST for a manifest that was asked for by its digest.

JSON keys: tags[] {name, digest, age_ms, is_public}.")]
pub(crate) struct MirrorListArguments {
    #[command(flatten)]
    pub(crate) target: Target,
}

const INVALIDATE_LONG: &str = "\
Forgets the remembered tags whose name fits a PATTERN, and says how many those were; exit 1 when there were none. The next \
pull of such a tag asks its registry, pinned or not. A name is REGISTRY/REPOSITORY:TAG or REGISTRY/REPOSITORY@DIGEST, as \
`hawker mirror ls` shows it; `*` stands for anything, `/` and `:` too, as in the patterns of [[mirror.tags]]; quote it.

What is already under way is not called back: an answer that was given a moment ago may be given again for at most 10 s. \
The agent's disk follows within a second. Layers and manifests stay in its store (`hawker rm`), since a digest never stands \
for anything else. Only this host forgets: run it on each. What the scheduler remembers counts only while a registry is \
away.

JSON keys: invalidated.";

const INVALIDATE_EXAMPLES: &str = "\
Examples:
  hawker mirror invalidate docker.io/library/nginx:1.27      one tag
  hawker mirror invalidate 'quay.io/team/*'                  all of one organization
  hawker mirror invalidate '*:latest' '*:main'               two tags of every repository
  hawker mirror invalidate '*'                               everything";

/// Forget tags, so that the next pull asks their registries
#[derive(Args, Debug)]
#[command(long_about = INVALIDATE_LONG, after_long_help = INVALIDATE_EXAMPLES)]
pub(crate) struct MirrorInvalidateArguments {
    /// Which tags, such as docker.io/library/nginx:1.27 or 'quay.io/team/*'; at most 100
    #[arg(required = true, value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}
