//! Routes in the language that `lb` and Fabio share.

use std::fmt::Write as _;

use crate::cases::host;
use crate::stand::Stand;

/// All routes of a stand. The one for HTTP/1.1 has this source and these options.
pub(crate) fn routes(stand: &Stand<'_>, source: &str, options: &str) -> String {
    let (doors, to) = (stand.doors, stand.backends);
    let mut text = format!(
        "route add grpc /bench.Echo/ http://127.0.0.1:{}/ opts \"proto=grpc\"\nroute add tcp :{} tcp://127.0.0.1:{}\n",
        to.grpc, doors.tcp, to.tcp
    );
    if stand.hosts == 0 {
        writeln!(
            text,
            "route add web {source} http://127.0.0.1:{}/{options}",
            to.http
        )
        .unwrap();
    }
    // One service for all hosts, as the others have one backend: a pool of connections for each
    // would be another case.
    for i in 0..stand.hosts {
        writeln!(
            text,
            "route add web {}/ http://127.0.0.1:{}/",
            host(i),
            to.http
        )
        .unwrap();
    }
    text
}
