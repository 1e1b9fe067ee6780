//! nginx as an origin that counts what it sends.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::Lab;
use crate::process::{Process, Scratch};
use crate::workspace;

/// How this nginx differs from one out of the box.
#[derive(Clone, Copy, Debug, Default)]
pub struct Behaviour {
    /// Answers every GET with the whole file.
    pub is_without_ranges: bool,
}

/// One request as nginx logged it.
#[derive(Clone, Debug)]
pub struct Request {
    pub body_bytes: u64,
    pub status: u16,
    pub method: String,
    pub target: String,
    pub range: String,
}

/// A running nginx. Ends with this value.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    access_log: PathBuf,
}

impl Nginx {
    /// Serves the files in `root` on `address`, on the lab's origin when there is a lab.
    ///
    /// # Panics
    /// When nginx is missing or does not start.
    #[must_use]
    pub fn start(scratch: &Scratch, address: SocketAddr, root: &Path, behaviour: Behaviour, lab: Option<&Lab>) -> Self {
        let ranges = if behaviour.is_without_ranges { "max_ranges 0;" } else { "" };
        Self::serve(scratch, address, &format!("listen {address}; root {}; {ranges}", root.display()), lab)
    }

    /// Serves what `server`, the inside of a server's block of its configuration, says; it must listen at `address`.
    ///
    /// # Panics
    /// When nginx is missing or does not start.
    #[must_use]
    pub fn serve(scratch: &Scratch, address: SocketAddr, server: &str, lab: Option<&Lab>) -> Self {
        let directory = scratch.join(&format!("nginx-{}", address.port()));
        std::fs::create_dir_all(&directory).expect("room for nginx");
        let access_log = directory.join("access.log");
        let configuration = directory.join("nginx.conf");
        std::fs::write(&configuration, configuration_text(&directory, server)).expect("room");
        let program = workspace::find_program("nginx").expect("callers check for nginx first");
        let mut command = lab.map_or_else(|| Command::new(&program), |lab| lab.command("origin", &program));
        command.arg("-e").arg(directory.join("error.log")).arg("-c").arg(&configuration).arg("-p").arg(&directory);
        let process = Process::start(scratch.path(), &format!("nginx-{}", address.port()), command);
        let mut nginx = Self { process, address, access_log };
        nginx.wait_until_ready(lab);
        nginx
    }

    /// The URL of a file in its root.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Every request it has finished.
    ///
    /// # Panics
    /// When its log is not what its configuration says.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        text.lines()
            .map(|line| {
                let mut words = line.splitn(5, ' ');
                let mut word = || words.next().unwrap_or_else(|| panic!("a word is missing: {line}"));
                Request {
                    body_bytes: word().parse().expect("bytes"),
                    status: word().parse().expect("a status"),
                    method: word().to_owned(),
                    target: word().to_owned(),
                    range: word().to_owned(),
                }
            })
            .collect()
    }

    /// Body bytes it sent for `name`, as far as its requests have ended.
    #[must_use]
    pub fn body_bytes(&self, name: &str) -> u64 {
        let target = format!("/{name}");
        self.requests().iter().filter(|request| request.target == target).map(|request| request.body_bytes).sum()
    }

    fn wait_until_ready(&mut self, lab: Option<&Lab>) {
        // In a lab the address is reachable from inside only; there the pid file, written after bind, has to do.
        let pid_file = self.access_log.with_file_name("nginx.pid");
        let is_in_lab = lab.is_some();
        let address = self.address;
        self.process.wait_until(Duration::from_secs(10), "ready", || {
            if is_in_lab { pid_file.is_file() } else { TcpStream::connect(address).is_ok() }
        });
    }
}

fn configuration_text(directory: &Path, server: &str) -> String {
    let directory = directory.display();
    // One process, so that its pid is all there is to end.
    format!(
        "daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           log_format bytes '$body_bytes_sent $status $request_method $request_uri $http_range';\n\
           access_log {directory}/access.log bytes;\n\
           client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n\
           fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;\n\
           sendfile on; tcp_nopush on; etag on;\n\
           server {{ {server} }}\n\
         }}\n"
    )
}
