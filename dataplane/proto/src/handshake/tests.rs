use super::*;
use crate::frame::{Head, ROLE_SERVES, ROLE_WANTS};
use crate::testing::{hex, host};
use alloc::string::ToString;
use proptest::prelude::*;

const SECRET: ClusterKey = ClusterKey::from_bytes([9; 32]);

fn config<'a>(host_key: &'a HostKey, cluster: Option<&'a ClusterKey>, nonce: u8, roles: u8) -> HandshakeConfig<'a> {
    HandshakeConfig { host_key, cluster, nonce: [nonce; 32], roles }
}

fn dialer(cluster: Option<&ClusterKey>) -> (Handshake, Frame) {
    Handshake::dial(&config(&host(1), cluster, 0xd1, ROLE_WANTS))
}

fn acceptor(cluster: Option<&ClusterKey>) -> Handshake {
    Handshake::accept(&config(&host(2), cluster, 0xa2, ROLE_SERVES))
}

/// Carries frames back and forth until both are done or one refuses.
fn run(
    (mut dialer, hello): (Handshake, Frame),
    mut acceptor: Handshake,
) -> Result<(Peer, Peer), (Side, HandshakeError)> {
    let mut to_acceptor = vec![hello];
    let mut seen = (None, None);
    while seen.0.is_none() || seen.1.is_none() {
        assert!(!to_acceptor.is_empty(), "nobody has anything to say");
        let mut to_dialer = Vec::new();
        for frame in to_acceptor.drain(..) {
            let step = acceptor.handle(&frame).map_err(|error| (Side::Acceptor, error))?;
            to_dialer.extend(step.send);
            seen.1 = seen.1.or(step.done);
        }
        for frame in to_dialer {
            let step = dialer.handle(&frame).map_err(|error| (Side::Dialer, error))?;
            to_acceptor.extend(step.send);
            seen.0 = seen.0.or(step.done);
        }
    }
    Ok((seen.0.unwrap(), seen.1.unwrap()))
}

#[test]
fn two_members_learn_who_the_other_is() {
    for cluster in [Some(&SECRET), None] {
        let (by_dialer, by_acceptor) = run(dialer(cluster), acceptor(cluster)).unwrap();
        let (one, two) = (host(1), host(2));
        let expected = Peer { host: two.host_id(), key: two.public(), version: 1, roles: ROLE_SERVES };
        assert_eq!(by_dialer, expected);
        let expected = Peer { host: one.host_id(), key: one.public(), version: 1, roles: ROLE_WANTS };
        assert_eq!(by_acceptor, expected);
    }
}

#[test]
fn dialer_needs_one_round_trip() {
    let ((mut dialer, hello), mut acceptor) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
    let replies = acceptor.handle(&hello).unwrap().send;
    assert_eq!(replies.iter().map(Frame::kind).collect::<Vec<_>>(), [FrameKind::Hello, FrameKind::Auth]);
    assert_eq!(dialer.handle(&replies[0]), Ok(Step::default()));
    let step = dialer.handle(&replies[1]).unwrap();
    assert!(step.done.is_some());
    assert_eq!(step.send.iter().map(Frame::kind).collect::<Vec<_>>(), [FrameKind::Auth]);
}

/// Made with Python's `struct`, `blake3` and `cryptography`, from the diagram in `handshake.rs`.
#[test]
fn proofs_have_their_golden_bytes() {
    let ((mut dialer, hello), mut acceptor) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
    let replies = acceptor.handle(&hello).unwrap().send;
    dialer.handle(&replies[0]).unwrap();
    let answers = dialer.handle(&replies[1]).unwrap().send;
    let cases = [
        (
            &answers[0],
            "bbec449fba59a12accef07a330dfd68082b790cbc57635a773cae3982c4a90cf",
            "c7382a42318a0ab70a890b07d03b9b1bc59155f5615fbca773e7925ad359d42f\
             ca5b7941eb7e9bcabb9ecaebad3424471e38796b66129d72a111db11349fee03",
        ),
        (
            &replies[1],
            "9d099ee3548e16e250ded5059d46f48b6e22ade19bf0f9f9799ef057716e74d2",
            "c8bb981b10da0adcd81f92114e7c0e52d850ed30d20bacdab7002ad6d8c38574\
             49a72ce86fe58749410e0bf7baea72f6b6929a6ccfb18551f54a64a8f764a90f",
        ),
    ];
    for (frame, mac_hex, signature_hex) in cases {
        let Frame::Auth { mac, signature } = frame else { panic!("an AUTH frame") };
        assert_eq!(hex(mac), mac_hex);
        assert_eq!(hex(&signature.0), signature_hex);
    }
}

#[test]
fn another_cluster_key_is_refused() {
    let other = ClusterKey::from_bytes([8; 32]);
    let outcome = run(dialer(Some(&SECRET)), acceptor(Some(&other)));
    assert_eq!(outcome, Err((Side::Dialer, HandshakeError::Membership)));
    // A dialer that skips its own check is stopped by the acceptor.
    let ((mut dialer, hello), mut acceptor) = (dialer(Some(&other)), acceptor(Some(&SECRET)));
    let theirs = acceptor.handle(&hello).unwrap().send.remove(0);
    let Frame::Hello(theirs) = theirs else { panic!("a HELLO frame") };
    let transcript = Transcript::new(LinkKind::Peer, dialer.ours, theirs).unwrap();
    let proof = transcript.prove(Side::Dialer, &host(1), Some(&other));
    let auth = Frame::Auth { mac: proof.mac, signature: proof.signature };
    assert_eq!(acceptor.handle(&auth), Err(HandshakeError::Membership));
    assert!(dialer.handle(&auth).is_err());
}

#[test]
fn one_side_without_a_key_is_refused_by_the_other() {
    for (ours, theirs) in [(Some(&SECRET), None), (None, Some(&SECRET))] {
        let outcome = run(dialer(ours), acceptor(theirs));
        assert_eq!(outcome, Err((Side::Acceptor, HandshakeError::OneSideInsecure)));
    }
}

#[test]
fn claiming_to_be_insecure_does_not_help_against_a_secured_host() {
    let mut acceptor = acceptor(Some(&SECRET));
    let (_, Frame::Hello(mut hello)) = dialer(Some(&SECRET)) else { panic!("a HELLO frame") };
    hello.is_secured = false;
    assert_eq!(acceptor.handle(&Frame::Hello(hello)), Err(HandshakeError::OneSideInsecure));
    // And a transcript that says so does not verify with a key at hand.
    let mut other = hello;
    (other.host, other.nonce) = (host(2).public(), [1; 32]);
    let transcript = Transcript::new(LinkKind::Control, hello, other).unwrap();
    let proof = transcript.prove(Side::Dialer, &host(1), None);
    assert_eq!(transcript.verify(Side::Dialer, Some(&SECRET), &proof), Err(HandshakeError::OneSideInsecure));
    assert_eq!(transcript.verify(Side::Dialer, None, &proof), Ok(()));
}

#[test]
fn own_hello_sent_back_is_refused() {
    let (mut handshake, hello) = dialer(Some(&SECRET));
    assert_eq!(handshake.handle(&hello), Err(HandshakeError::Itself));
    // With another key in it but our nonce, as a mirror that has a key of its own.
    let (mut handshake, hello) = dialer(Some(&SECRET));
    let Frame::Hello(mut hello) = hello else { panic!("a HELLO frame") };
    hello.host = host(7).public();
    assert_eq!(handshake.handle(&Frame::Hello(hello)), Err(HandshakeError::Itself));
}

#[test]
fn own_auth_sent_back_is_refused() {
    // A stranger relays our HELLO to us as if it were the other side, then sends back the AUTH we gave.
    let ((_, hello), mut acceptor) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
    let replies = acceptor.handle(&hello).unwrap().send;
    assert_eq!(acceptor.handle(&replies[1]), Err(HandshakeError::Membership));
}

#[test]
fn auth_of_an_earlier_connection_is_refused() {
    let ((mut first, hello), mut serving) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
    let replies = serving.handle(&hello).unwrap().send;
    first.handle(&replies[0]).unwrap();
    let old_auth = first.handle(&replies[1]).unwrap().send.remove(0);
    // The same HELLO again, to an acceptor that drew another nonce.
    let mut again = Handshake::accept(&config(&host(2), Some(&SECRET), 0xa3, ROLE_SERVES));
    again.handle(&hello).unwrap();
    assert_eq!(again.handle(&old_auth), Err(HandshakeError::Membership));
}

#[test]
fn member_cannot_take_the_name_of_another_host() {
    let mut acceptor = acceptor(Some(&SECRET));
    let (_, Frame::Hello(mut hello)) = dialer(Some(&SECRET)) else { panic!("a HELLO frame") };
    hello.host = host(5).public();
    let Frame::Hello(theirs) = acceptor.handle(&Frame::Hello(hello)).unwrap().send.remove(0) else {
        panic!("a HELLO frame")
    };
    // It knows the cluster key but not host 5's.
    let transcript = Transcript::new(LinkKind::Peer, hello, theirs).unwrap();
    let bytes = transcript.to_bytes(Side::Dialer);
    let (mac, signature) = (SECRET.mac(AUTH_DOMAIN, &[&bytes]), host(1).sign(AUTH_DOMAIN, &bytes));
    assert_eq!(acceptor.handle(&Frame::Auth { mac, signature }), Err(HandshakeError::Identity));
}

#[test]
fn proof_for_one_kind_of_link_means_nothing_on_the_other() {
    let (_, Frame::Hello(dialer)) = dialer(Some(&SECRET)) else { panic!("a HELLO frame") };
    let acceptor = acceptor(Some(&SECRET)).ours;
    let peer = Transcript::new(LinkKind::Peer, dialer, acceptor).unwrap();
    let control = Transcript::new(LinkKind::Control, dialer, acceptor).unwrap();
    let proof = control.prove(Side::Dialer, &host(1), Some(&SECRET));
    assert_eq!(control.verify(Side::Dialer, Some(&SECRET), &proof), Ok(()));
    assert_eq!(peer.verify(Side::Dialer, Some(&SECRET), &proof), Err(HandshakeError::Membership));
    assert_eq!(control.peer(Side::Acceptor).host, host(2).host_id());
}

#[test]
fn newest_common_version_is_spoken_or_none() {
    let (_, Frame::Hello(ours)) = dialer(None) else { panic!("a HELLO frame") };
    let theirs = acceptor(None).ours;
    let version = |mine: (u16, u16), other: (u16, u16)| {
        let mine = Hello { version_min: mine.0, version_max: mine.1, ..ours };
        let other = Hello { version_min: other.0, version_max: other.1, ..theirs };
        Transcript::new(LinkKind::Peer, mine, other).map(|transcript| transcript.version())
    };
    assert_eq!(version((1, 3), (2, 5)), Ok(3));
    assert_eq!(version((1, 1), (1, 9)), Ok(1));
    assert_eq!(version((1, 1), (2, 3)), Err(HandshakeError::Version { dialer: 1..=1, acceptor: 2..=3 }));
    assert_eq!(version((2, 3), (1, 1)), Err(HandshakeError::Version { dialer: 2..=3, acceptor: 1..=1 }));
    let nonsense = core::ops::RangeInclusive::new(5, 4);
    assert_eq!(version((5, 4), (1, 9)), Err(HandshakeError::Version { dialer: nonsense, acceptor: 1..=9 }));

    let mut acceptor = acceptor(None);
    let error = acceptor.handle(&Frame::Hello(Hello { version_min: 2, version_max: 2, ..ours })).unwrap_err();
    let Some(Frame::Error { code, text, channel: 0 }) = error.answer() else { panic!("an ERROR frame") };
    assert_eq!(code, ErrorCode::Version);
    assert!(text.contains("speaks 2 to 2") && text.contains("acceptor 1 to 1: update the older"), "{text}");
}

#[test]
fn nobody_can_talk_two_hosts_down_to_an_older_version() {
    let ((mut dialer, hello), mut acceptor) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
    dialer.ours.version_max = 1;
    let Frame::Hello(mut seen_by_acceptor) = hello else { panic!("a HELLO frame") };
    // In the middle, the dialer's offer of 1..=2 would have become 1..=1; here the other way round.
    seen_by_acceptor.version_max = 2;
    let replies = acceptor.handle(&Frame::Hello(seen_by_acceptor)).unwrap().send;
    dialer.handle(&replies[0]).unwrap();
    assert_eq!(dialer.handle(&replies[1]), Err(HandshakeError::Membership));
}

#[test]
fn frame_out_of_turn_ends_the_handshake() {
    let mut handshake = acceptor(Some(&SECRET));
    assert_eq!(handshake.handle(&Frame::Goodbye), Err(HandshakeError::Unexpected(FrameKind::Goodbye)));
    let (_, hello) = dialer(Some(&SECRET));
    let outcome = handshake.handle(&hello);
    assert_eq!(outcome, Err(HandshakeError::Unexpected(FrameKind::Hello)), "nothing is taken after an error");

    let mut handshake = acceptor(Some(&SECRET));
    handshake.handle(&hello).unwrap();
    assert_eq!(handshake.handle(&hello), Err(HandshakeError::Unexpected(FrameKind::Hello)));
}

#[test]
fn refusal_of_the_peer_is_passed_on_and_not_answered() {
    let (mut handshake, _) = dialer(Some(&SECRET));
    let refusal = HandshakeError::Membership.answer().unwrap();
    let error = handshake.handle(&refusal).unwrap_err();
    assert_eq!(error.answer(), None);
    assert!(error.to_string().contains("cluster key"), "{error}");
    assert_eq!(HandshakeError::Itself.answer().unwrap().kind(), FrameKind::Error);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever single byte of either AUTH or HELLO is changed on the way, nobody is let in.
    #[test]
    fn any_changed_byte_on_the_way_is_noticed(
        which in 0usize..4,
        index in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let ((mut dialer, hello), mut acceptor) = (dialer(Some(&SECRET)), acceptor(Some(&SECRET)));
        let alter = |frame: &Frame, turn: usize| {
            let mut bytes = frame.encode();
            if turn == which {
                let index = index.index(bytes.len());
                bytes[index] ^= change;
            }
            let (head, payload) = bytes.split_first_chunk().unwrap();
            Head::decode(head).and_then(|head| Frame::decode(&head, payload)).ok()
        };
        let outcome = (|| {
            let replies = acceptor.handle(&alter(&hello, 0)?).ok()?.send;
            dialer.handle(&alter(&replies[0], 1)?).ok()?;
            let answers = dialer.handle(&alter(&replies[1], 2)?).ok()?.send;
            acceptor.handle(&alter(&answers[0], 3)?).ok()?.done
        })();
        prop_assert_eq!(outcome, None);
    }
}
