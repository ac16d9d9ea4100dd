use super::*;
use crate::tests::samples;

#[test]
fn memory_is_refused_with_the_numbers() {
    let one = samples::definition("a");
    let need = frames(&one);
    assert!(memory(&[&one], need).is_ok());
    let failure = memory(&[&one, &one], 2 * need - 1).unwrap_err().to_string();
    assert_eq!(
        failure,
        "2 partitions: memory: 33 MiB needed, 32 MiB free; ask for 1 MiB less, or destroy a \
         partition first; see `uvtool resources`"
    );
}
