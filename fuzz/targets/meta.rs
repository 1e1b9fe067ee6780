//! A task's meta file. Its checksum is made right, because no input would guess it.
#![no_main]

use hawker_storage::{META_BYTES_MAX, TaskMeta};
use libfuzzer_sys::fuzz_target;

const INSTANCE: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    assert_eq!(TaskMeta::decode(bytes, INSTANCE), None, "a checksum was guessed");
    let mut file = [b"HAWKMETA".as_slice(), &1u16.to_le_bytes(), &0u16.to_le_bytes()].concat();
    let check = crc32fast::hash(&[&file, INSTANCE.to_le_bytes().as_slice(), bytes].concat());
    file.extend_from_slice(&check.to_le_bytes());
    file.extend_from_slice(&INSTANCE.to_le_bytes());
    file.extend_from_slice(bytes);
    assert_eq!(TaskMeta::decode(&file, INSTANCE + 1), None, "of another creation");
    let Some(meta) = TaskMeta::decode(&file, INSTANCE) else { return };
    let again = meta.encode(INSTANCE);
    assert!(again.len() <= META_BYTES_MAX);
    if file.len() <= META_BYTES_MAX {
        assert_eq!(TaskMeta::decode(&again, INSTANCE), Some(meta));
    }
});
