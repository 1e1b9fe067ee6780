//! Connections in, whatever goes wrong with single ones, and as many of them as there is room for.
//!
//! A connection is a stranger's until a session on it has proved itself. Strangers have places and bytes of their own:
//! when the places are taken the oldest stranger goes, so that whoever only opens connections keeps no agent out.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Connections accepted and not yet taken over.
const BACKLOG: usize = 64;
/// Out of descriptors or memory: others close in the meantime.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that have not proved themselves.
const STRANGERS_MAX: usize = 1_024;
/// What one of them may send: 300 probes, or a proof beside what HTTP/2 says of itself. A first message may be as long
/// as any other, so that without this strangers could fill gigabytes.
const STRANGER_BYTES_MAX: usize = 64 * 1024;
/// All agents of a cluster may come at once: each has some time before newer ones take its place.
/// So that two thousand a second pass, each has this times the places ...
const GRACE_MICROS: u64 = 500;
/// ... and so long at least where places are few. A proof takes two round trips and a millisecond.
const GRACE_MIN: Duration = Duration::from_millis(50);
/// Descriptors that are no connections: files, listener, the runtime's own, and connections that are being closed.
const DESCRIPTORS_OWN: u64 = 64;
/// With less there is no room for anybody.
pub(crate) const DESCRIPTORS_MIN: u64 = 2 * DESCRIPTORS_OWN;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    strangers_max: usize,
    members_max: usize,
    /// A stranger keeps its place for so long whoever else comes.
    grace: Duration,
}

impl Room {
    /// What fits in `descriptors`, the process's limit of open files; `None` when that is too small to work.
    pub(crate) fn of(descriptors: u64) -> Option<Self> {
        let rest = descriptors.checked_sub(DESCRIPTORS_OWN).filter(|_| descriptors >= DESCRIPTORS_MIN)?;
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let strangers_max = (rest / 4).min(STRANGERS_MAX);
        let grace = Duration::from_micros(GRACE_MICROS * strangers_max as u64).max(GRACE_MIN);
        Some(Self { strangers_max, members_max: rest - strangers_max, grace })
    }
}

/// Who has a place.
#[derive(Debug)]
struct Places {
    room: Room,
    crowd: Mutex<Crowd>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Crowd {
    next: u64,
    /// By age. Dropping what is kept here closes the connection.
    strangers: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
    members: usize,
}

impl Places {
    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Whoever panicked left counts that are whole: each change is one statement.
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a stranger can be taken; the oldest goes for it after its grace.
    async fn make_room(&self) {
        loop {
            let oldest = {
                let mut crowd = self.crowd();
                if crowd.strangers.len() < self.room.strangers_max {
                    return;
                }
                let Some((number, since)) = crowd.strangers.iter().next().map(|(number, (since, _))| (*number, *since))
                else {
                    return;
                };
                if since.elapsed() >= self.room.grace {
                    crowd.strangers.remove(&number);
                    return;
                }
                since
            };
            tokio::select! {
                () = tokio::time::sleep_until(oldest + self.room.grace) => {}
                () = self.freed.notified() => {}
            }
        }
    }

    fn take(self: &Arc<Self>, from: SocketAddr) -> (Arc<Place>, oneshot::Receiver<()>) {
        let (keep, evicted) = oneshot::channel();
        let mut crowd = self.crowd();
        let number = crowd.next;
        crowd.next += 1;
        crowd.strangers.insert(number, (Instant::now(), keep));
        drop(crowd);
        let place = Place {
            places: Arc::clone(self),
            number,
            from,
            is_member: AtomicBool::new(false),
            is_proving: AtomicBool::new(false),
        };
        (Arc::new(place), evicted)
    }
}

/// A connection's place, as its sessions see it.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    from: SocketAddr,
    is_member: AtomicBool,
    is_proving: AtomicBool,
}

/// What a session is told of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Arc<Place>);

/// Why a session has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The stranger's place was given to another.
    Evicted,
    /// So many members are here already.
    Full(usize),
}

impl Place {
    pub(crate) fn from(&self) -> SocketAddr {
        self.from
    }

    /// True for the only session of the connection that may prove itself now; it calls [`Self::end_proof`] then.
    pub(crate) fn begin_proof(&self) -> bool {
        !self.is_proving.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_proof(&self) {
        self.is_proving.store(false, Ordering::Relaxed);
    }

    /// The other end is one of the cluster.
    pub(crate) fn become_member(&self) -> Result<(), NoPlace> {
        let mut crowd = self.places.crowd();
        if self.is_member.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !crowd.strangers.contains_key(&self.number) {
            return Err(NoPlace::Evicted);
        }
        if crowd.members >= self.places.room.members_max {
            return Err(NoPlace::Full(crowd.members));
        }
        // Before its place among strangers goes, which would close it.
        self.is_member.store(true, Ordering::Release);
        crowd.members += 1;
        crowd.strangers.remove(&self.number);
        drop(crowd);
        self.places.freed.notify_one();
        Ok(())
    }

    fn is_member(&self) -> bool {
        self.is_member.load(Ordering::Acquire)
    }
}

/// A connection with its place.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    place: Arc<Place>,
    evicted: oneshot::Receiver<()>,
    received_bytes: usize,
    is_over: bool,
}

impl Connection {
    /// Whether a stranger's time or bytes are up.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if !self.is_over && !self.place.is_member() {
            let is_evicted = Pin::new(&mut self.evicted).poll(context).is_ready();
            // Becoming a member ends the wait, too.
            self.is_over = (is_evicted || self.received_bytes >= STRANGER_BYTES_MAX) && !self.place.is_member();
        }
        self.is_over
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut crowd = self.place.places.crowd();
        if self.place.is_member() {
            crowd.members -= 1;
        } else {
            crowd.strangers.remove(&self.place.number);
        }
        drop(crowd);
        self.place.places.freed.notify_one();
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller(Arc::clone(&self.place))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            // As if the other end had closed.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        self.received_bytes = self.received_bytes.saturating_add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// Accepts until `stopping`. An error never ends it: the listener lives on, the connection was lost anyway.
pub(crate) fn incoming(
    listener: TcpListener,
    room: Room,
    mut stopping: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<Connection>> {
    let places = Arc::new(Places { room, crowd: Mutex::default(), freed: Notify::new() });
    let (connections, taken) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        loop {
            let accept = async {
                places.make_room().await;
                listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
                () = connections.closed() => return,
            };
            match accepted {
                Ok((socket, from)) => {
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%from, %error, "connection was gone before it was served");
                        continue;
                    }
                    let (place, evicted) = places.take(from);
                    let connection = Connection { socket, place, evicted, received_bytes: 0, is_over: false };
                    if connections.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    fn places(grace: Duration) -> Arc<Places> {
        let room = Room { strangers_max: 2, members_max: 1, grace };
        Arc::new(Places { room, crowd: Mutex::default(), freed: Notify::new() })
    }

    #[test]
    fn room_follows_from_the_limit_of_open_files() {
        assert_eq!(Room::of(DESCRIPTORS_MIN - 1), None);
        assert_eq!(Room::of(DESCRIPTORS_MIN), Some(Room { strangers_max: 16, members_max: 48, grace: GRACE_MIN }));
        let room = Room::of(1 << 20).unwrap();
        assert_eq!((room.strangers_max, room.members_max + STRANGERS_MAX + 64), (STRANGERS_MAX, 1 << 20));
    }

    #[tokio::test]
    async fn oldest_stranger_goes_and_members_stay() {
        let places = places(Duration::ZERO);
        let (member, mut kept) = places.take(from());
        member.become_member().unwrap();
        let (first, mut first_wait) = places.take(from());
        let (second, mut second_wait) = places.take(from());
        places.make_room().await;
        assert_eq!(first_wait.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(second_wait.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert!(kept.try_recv().is_err() && member.is_member(), "its wait is over, its place is not");
        assert_eq!(second.become_member(), Err(NoPlace::Full(1)));
        assert_eq!(first.become_member(), Err(NoPlace::Evicted));
    }

    #[tokio::test]
    async fn stranger_keeps_its_place_for_its_grace() {
        let places = places(Duration::from_secs(3600));
        let (_first, _wait) = places.take(from());
        let (second, _second_wait) = places.take(from());
        let mut room = std::pin::pin!(places.make_room());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(room.as_mut().poll(&mut context).is_pending());
        second.become_member().unwrap();
        assert!(room.as_mut().poll(&mut context).is_ready(), "a place was freed");
    }

    #[test]
    fn one_session_of_a_connection_proves_itself_at_a_time() {
        let (place, _wait) = places(Duration::ZERO).take(from());
        assert!(place.begin_proof() && !place.begin_proof());
        place.end_proof();
        assert!(place.begin_proof());
    }
}
