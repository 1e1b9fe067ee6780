//! `get` without an agent: one inside this process, whose data directory lies beside FILE and becomes it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hawker_agent::config::AgentConfig;
use hawker_agent::embedded::{embedded_config, part_dir};
use hawker_agent::{Agent, EngineChoice};

use crate::client::{Door, Order, Outcome, Placing, Watch, get, publish};
use crate::exit::{Exit, Failure};
use crate::stop::Stop;

/// Where the content goes, and what is used on the way.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) target: PathBuf,
    pub(crate) overwrite: bool,
    /// Through an agent: a hard link instead of a copy.
    pub(crate) is_linked: bool,
    /// Of the agent inside this process.
    pub(crate) engine: EngineChoice,
}

/// Downloads with an agent of its own. What an interruption leaves is taken up by the next call.
pub(crate) fn get_alone(order: &Order, place: &Place, watch: &mut dyn Watch, stop: &Stop) -> Result<Outcome, Failure> {
    let target = place.target.as_path();
    let workshop = Workshop::open(target)?;
    let config = AgentConfig { engine: place.engine, ..embedded_config(&workshop.path) };
    let agent = match Agent::start(config) {
        Ok(agent) => agent,
        // The directory stays: it may be another download's that runs.
        Err(error) => return Err(Failure::other(format!("cannot download to {}: {error}", target.display()))),
    };
    let mut counted = Counted { watch, bytes: 0 };
    let result = get(&Door::Inside(&agent), order, &Placing::Leave, &mut counted, stop);
    let has_bytes = counted.bytes > 0;
    agent.stop();
    let published = result.and_then(|outcome| {
        workshop.publish(&outcome, target, place.overwrite)?;
        Ok(outcome)
    });
    let is_kept = has_bytes && published.as_ref().is_err_and(|failure| can_go_on(failure.exit));
    workshop.close(is_kept);
    published
}

/// Whether what has arrived is worth keeping: not when it is wrong, or when nobody will send the rest.
fn can_go_on(exit: Exit) -> bool {
    match exit {
        Exit::Interrupted | Exit::Timeout | Exit::DiskFull | Exit::Other | Exit::AgentUnreachable => true,
        Exit::OriginRefused | Exit::DigestMismatch | Exit::Usage => false,
    }
}

/// `.FILE.hawker-part`, a directory while there is no agent.
struct Workshop {
    path: PathBuf,
    permissions: fs::Permissions,
}

impl Workshop {
    fn open(target: &Path) -> Result<Self, Failure> {
        let path = part_dir(target);
        let cannot = |error: &io::Error| Failure::io(format_args!("cannot write {}", path.display()), error);
        if path.is_file() {
            // A download through an agent that was killed left it; the agent has the bytes.
            fs::remove_file(&path).map_err(|error| cannot(&error))?;
        }
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(&error)),
            _ => {}
        }
        // The store's files are for the agent alone; FILE is to be as any file that this user makes.
        let probe = path.join("mode");
        let permissions = File::create(&probe)
            .and_then(|file| file.metadata())
            .map(|metadata| metadata.permissions())
            .map_err(|error| cannot(&error))?;
        fs::remove_file(&probe).map_err(|error| cannot(&error))?;
        Ok(Self { path, permissions })
    }

    /// Takes the sealed content out of the store that made it and has stopped.
    fn publish(&self, outcome: &Outcome, target: &Path, overwrite: bool) -> Result<(), Failure> {
        let Some(sealed) = &outcome.sealed else {
            return Err(Failure::other("the agent did not say where the content lies"));
        };
        let cannot = |error: &io::Error| Failure::io(format_args!("cannot finish {}", target.display()), error);
        let file = File::options().write(true).open(sealed).map_err(|error| cannot(&error))?;
        let length = file.metadata().map_err(|error| cannot(&error))?.len();
        if length != outcome.bytes {
            return Err(Failure::other(format!("{} has {length} bytes, not {}", sealed.display(), outcome.bytes)));
        }
        file.set_permissions(self.permissions.clone()).map_err(|error| cannot(&error))?;
        file.sync_all().map_err(|error| cannot(&error))?;
        publish(sealed, target, overwrite)
    }

    fn close(self, is_kept: bool) {
        if !is_kept && let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the unfinished download");
        }
    }
}

/// Remembers whether anything has arrived.
struct Counted<'a> {
    watch: &'a mut dyn Watch,
    bytes: u64,
}

impl Watch for Counted<'_> {
    fn progress(&mut self, progress: &hawker_api::local::Progress) {
        self.bytes = progress.bytes_done;
        self.watch.progress(progress);
    }

    fn note(&mut self, text: &str) {
        self.watch.note(text);
    }
}
