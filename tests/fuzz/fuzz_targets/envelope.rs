//! A message from the broker or the controller: to a command, a question, an answer, a document.
#![no_main]

use berth_agent::record::VmmRecord;
use berth_rpc_types::link::{NetworkDocument, Reported, SyncReply, SyncRequest};
use berth_rpc_types::{Command, CommandResult, Envelope, Read, ReadReply, Telemetry};
use libfuzzer_sys::fuzz_target;

fn reads_back<T>(input: &[u8])
where
    T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let again = serde_json::to_vec(&value).expect("what was read can be written");
        let back = serde_json::from_slice::<T>(&again).expect("what was written can be read");
        assert_eq!(back, value);
    }
}

fuzz_target!(|input: &[u8]| {
    reads_back::<CommandResult>(input);
    reads_back::<Telemetry>(input);
    reads_back::<Read>(input);
    reads_back::<ReadReply>(input);
    reads_back::<NetworkDocument>(input);
    let _ = serde_json::from_slice::<SyncReply>(input);
    if let Ok(request) = serde_json::from_slice::<SyncRequest<Reported>>(input) {
        let count = request.observations.len();
        let (request, newer) = request.understood();
        assert_eq!(request.observations.len() + newer.len(), count);
    }
    // What is no answer in newer words is parsed as any JSON is.
    if let Ok(result) = CommandResult::parse(input) {
        assert_eq!(serde_json::from_slice::<CommandResult>(input).ok(), Some(result));
    }
    let Ok(envelope) = serde_json::from_slice::<Envelope>(input) else {
        return;
    };
    // Without its body, in which a number need not read back to its last digit.
    let outside = Envelope {
        body: serde_json::Value::Null,
        ..envelope.clone()
    };
    reads_back::<Envelope>(&serde_json::to_vec(&outside).expect("what was read can be written"));
    let Ok(command) = Command::parse(&envelope) else {
        return;
    };
    let sent = Envelope {
        method: command.method().to_owned(),
        body: command.body(),
        ..envelope.clone()
    };
    assert_eq!(Command::parse(&sent).as_ref(), Ok(&command));
    let mut record = VmmRecord::new(envelope.vmm_id);
    let _ = record.accept(&envelope, &command);
    let twice = record.accept(&envelope, &command);
    assert!(
        !matches!(twice, berth_agent::record::Verdict::Accepted),
        "the same message is accepted once"
    );
});
