//! Frames of a stranger to both sides of a handshake: nobody gets in without the cluster's key.
#![no_main]

use hawker_proto::frame::{Frame, HEAD_BYTES, Head, ROLE_SERVES, ROLE_WANTS};
use hawker_proto::handshake::{Handshake, HandshakeConfig};
use hawker_proto::{ClusterKey, HostKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (host_key, cluster) = (HostKey::from_seed([1; 32]), ClusterKey::from_bytes([2; 32]));
    let roles = ROLE_SERVES | ROLE_WANTS;
    let config = HandshakeConfig { host_key: &host_key, cluster: Some(&cluster), nonce: [3; 32], roles };
    for mut side in [Handshake::accept(&config), Handshake::dial(&config).0] {
        let mut rest = bytes;
        while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let Ok(head) = Head::decode(head) else { break };
            let Some((payload, next)) = after.split_at_checked(head.payload_bytes() as usize) else { break };
            let Ok(frame) = Frame::decode(&head, payload) else { break };
            let Ok(step) = side.handle(&frame) else { break };
            assert!(step.done.is_none(), "a stranger is in: {step:?}");
            rest = next;
        }
    }
});
