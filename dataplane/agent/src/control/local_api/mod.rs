//! The command line's socket: one request a connection, events back, the content by its descriptor.

mod get;
mod proof;
mod tags;
mod wire;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hawker_api::local::{self, Event, Request, event, request};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::caller::{CallerId, Failure, code};
use super::director::Ask;
use super::mirror::tags::Tags;
use super::status::AgentFacts;

use wire::{receive, send};

/// Connections beyond the most that downloads may have: questions are answered, downloads refused.
const EXTRA_MAX: usize = 16;
/// A connection says what it wants within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After EMFILE and its like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Tasks in one event: a frame holds 1 MiB and a task with a long URL 9 KiB.
const TASKS_PER_EVENT: usize = 100;
/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// What every connection needs.
#[derive(Debug)]
pub(crate) struct LocalApi {
    facts: Arc<AgentFacts>,
    /// What the registry mirror remembers.
    tags: Tags,
    next_caller: AtomicU64,
    /// Connections whose downloads are served at the same time.
    connections_max: usize,
}

impl LocalApi {
    pub(crate) fn new(facts: Arc<AgentFacts>, tags: Tags, connections_max: usize) -> Arc<Self> {
        Arc::new(Self { facts, tags, next_caller: AtomicU64::new(1), connections_max })
    }

    fn asks(&self) -> &mpsc::Sender<Ask> {
        &self.facts.asks
    }

    fn next_caller(&self) -> CallerId {
        CallerId(self.next_caller.fetch_add(1, Ordering::Relaxed))
    }

    /// Serves whoever connects, until the runtime ends.
    pub(crate) async fn serve(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(self.connections_max));
        let extra = Arc::new(Semaphore::new(EXTRA_MAX));
        loop {
            let Ok(spare) = Arc::clone(&extra).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let api = Arc::clone(&self);
                    let (place, is_full) = match Arc::clone(&places).try_acquire_owned() {
                        Ok(place) => (place, false),
                        Err(_) => (spare, true),
                    };
                    tokio::spawn(async move {
                        api.serve_one(stream, is_full).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the local socket accepts nobody for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection to its end.
    pub(crate) async fn connection(self: Arc<Self>, stream: UnixStream) {
        self.serve_one(stream, false).await;
    }

    async fn serve_one(&self, mut stream: UnixStream, is_full: bool) {
        // Nobody there, or nobody who speaks our language: there is nothing to answer then.
        let received = tokio::time::timeout(REQUEST_TIMEOUT, receive::<Request>(&mut stream)).await;
        let Ok(Ok(request)) = received else { return };
        let result = match request.request {
            Some(request::Request::Get(_)) if is_full => fail(&mut stream, &self.too_many()).await,
            Some(request::Request::Get(get)) => get::serve(self, &mut stream, get).await,
            Some(request::Request::Status(_)) => self.status(&mut stream).await,
            Some(request::Request::List(_)) => self.list(&mut stream).await,
            Some(request::Request::Stat(stat)) => self.stat(&mut stream, stat.task).await,
            Some(request::Request::Remove(remove)) => self.remove(&mut stream, remove.task).await,
            Some(request::Request::ListTags(_)) => tags::list(&self.tags, &mut stream).await,
            Some(request::Request::InvalidateTags(asked)) => tags::invalidate(&self.tags, &mut stream, &asked).await,
            None => {
                let message = "this agent does not know the request";
                let hint = "agent and command are of different versions: restart the agent";
                fail(&mut stream, &Failure::new(code::USAGE, message, hint)).await
            }
        };
        if let Err(error) = result {
            // The usual end of a command that was interrupted.
            tracing::debug!(%error, "a local connection ended early");
        }
    }

    fn too_many(&self) -> Failure {
        let message = format!("this agent serves {} downloads, as many as it may", self.connections_max);
        let hint = "try again in a moment; with few open files allowed it serves fewer: raise the agent's limit \
                    (ulimit -n, LimitNOFILE= in a systemd unit)";
        Failure::other(message, hint)
    }

    async fn status(&self, stream: &mut UnixStream) -> io::Result<()> {
        match self.facts.report().await {
            Some(report) => send(stream, &event(event::Event::Status(report)), None).await,
            None => fail(stream, &stopping()).await,
        }
    }

    async fn list(&self, stream: &mut UnixStream) -> io::Result<()> {
        let Some(snapshot) = self.facts.snapshot().await else { return fail(stream, &stopping()).await };
        let mut rest = snapshot.tasks;
        loop {
            let next = rest.split_off(rest.len().min(TASKS_PER_EVENT));
            let more = !next.is_empty();
            send(stream, &event(event::Event::Tasks(local::TaskList { tasks: rest, more })), None).await?;
            if !more {
                return Ok(());
            }
            rest = next;
        }
    }

    async fn stat(&self, stream: &mut UnixStream, task: String) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        // A director that is gone drops the reply, which is the answer then.
        let _ = self.asks().send(Ask::Stat { task, reply }).await;
        match answer.await.unwrap_or_else(|_| Err(stopping())) {
            Ok(task) => send(stream, &event(event::Event::Task(task)), None).await,
            Err(failure) => fail(stream, &failure).await,
        }
    }

    async fn remove(&self, stream: &mut UnixStream, task: String) -> io::Result<()> {
        let (reply, answer) = oneshot::channel();
        let _ = self.asks().send(Ask::Remove { task, reply }).await;
        match answer.await.unwrap_or_else(|_| Err(stopping())) {
            Ok(removed) => send(stream, &event(event::Event::Removed(removed)), None).await,
            Err(failure) => fail(stream, &failure).await,
        }
    }
}

fn event(event: event::Event) -> Event {
    Event { event: Some(event) }
}

async fn fail(stream: &mut UnixStream, failure: &Failure) -> io::Result<()> {
    let Failure { code, message, hint, .. } = failure.clone();
    send(stream, &event(event::Event::Error(local::Error { code, message, hint })), None).await
}

fn stopping() -> Failure {
    Failure::other("the agent is stopping", "try again when it runs")
}

/// Listens at `path`. A socket file that nobody answers at is replaced; one that somebody answers at is not.
///
/// # Errors
/// `AddrInUse`: another agent answers there. Else whatever the file system says.
pub(crate) fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there"));
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| !is_socket(&found)) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket stands there"));
    }
    // Under a name of its own until its mode is right; the rename also replaces a socket that nobody answers at.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = Path::new(&fresh);
    // Left by a process of the same id that was killed right here.
    let _ = std::fs::remove_file(fresh);
    let listener = std::os::unix::net::UnixListener::bind(fresh)?;
    let placed = std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| std::fs::rename(fresh, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(fresh);
        return Err(error);
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen(&path).unwrap();
    }

    #[test]
    fn file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
