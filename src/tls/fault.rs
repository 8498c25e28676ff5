//! Why a TLS connection failed: one closed list, each with its name in metrics, and how rustls' errors map to it.
//! Owns no text of a peer. Never decides what happens next: every fault ends its connection.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use rustls::{OtherError, PeerIncompatible, PeerMisbehaved};
use std::fmt;
use std::sync::Arc;

/// Builds a closed enum with the name of each variant in metrics and logs.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name in metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(super) use names;

names! {
    /// What was wrong. Names that begin with `alert_` are alerts that the peer sent.
    FaultKind {
        /// The first bytes are no TLS record: plain text to a TLS port.
        NotTls = "not_tls",
        ClientHelloTooLarge = "client_hello_too_large",
        /// A record or handshake message that cannot be read.
        BadRecord = "bad_record",
        /// A record whose authentication tag is wrong (RFC 8446 5.2).
        RecordAuthentication = "record_authentication",
        RecordTooLarge = "record_too_large",
        /// Too many records that carry nothing: empty ones, key updates, warning alerts.
        RecordFlood = "record_flood",
        UnexpectedMessage = "unexpected_message",
        /// The peer broke the protocol.
        PeerMisbehaved = "peer_misbehaved",
        /// The peer closed while the handshake was under way.
        ClosedInHandshake = "closed_in_handshake",
        NoSharedVersion = "no_shared_version",
        NoSharedCipher = "no_shared_cipher",
        NoSharedGroup = "no_shared_group",
        NoSharedSignature = "no_shared_signature",
        /// The peer lacks something else that we need.
        PeerIncompatible = "peer_incompatible",
        NoApplicationProtocol = "no_application_protocol",
        CertificateMissing = "certificate_missing",
        CertificateMalformed = "certificate_malformed",
        CertificateExpired = "certificate_expired",
        CertificateNotYetValid = "certificate_not_yet_valid",
        CertificateUnknownIssuer = "certificate_unknown_issuer",
        CertificateRevoked = "certificate_revoked",
        /// The lists at hand do not tell, or are out of date.
        CertificateRevocationUnknown = "certificate_revocation_unknown",
        /// A signature in the chain, or over the handshake, is wrong.
        CertificateSignature = "certificate_signature",
        /// SHA-1 and other algorithms that are not trusted.
        CertificateAlgorithm = "certificate_algorithm",
        /// The extended key usage does not fit (RFC 5924).
        CertificatePurpose = "certificate_purpose",
        CertificateChainTooLong = "certificate_chain_too_long",
        /// No subject alternative name that is a SIP identity (RFC 5922 7.1).
        CertificateNoIdentity = "certificate_no_identity",
        /// The identities do not hold the name that we dialled (RFC 5922 7.3).
        NameMismatch = "name_mismatch",
        /// It would hold only by a wildcard, and the pool does not allow them (RFC 5922 7.2).
        NameWildcard = "name_wildcard",
        /// A client that is vouched for, but not on the list of allowed names.
        NameNotAllowed = "name_not_allowed",
        CertificateRejected = "certificate_rejected",
        /// The keys have sealed as many records as they may.
        Exhausted = "exhausted",
        /// Asked to seal before the handshake has ended, or after a fault.
        NotEstablished = "not_established",
        /// Ours: randomness, clock or configuration.
        Internal = "internal",
        AlertUnexpectedMessage = "alert_unexpected_message",
        AlertBadRecordMac = "alert_bad_record_mac",
        AlertRecordOverflow = "alert_record_overflow",
        AlertHandshakeFailure = "alert_handshake_failure",
        AlertBadCertificate = "alert_bad_certificate",
        AlertUnsupportedCertificate = "alert_unsupported_certificate",
        AlertCertificateRevoked = "alert_certificate_revoked",
        AlertCertificateExpired = "alert_certificate_expired",
        AlertCertificateUnknown = "alert_certificate_unknown",
        AlertIllegalParameter = "alert_illegal_parameter",
        AlertUnknownCa = "alert_unknown_ca",
        AlertAccessDenied = "alert_access_denied",
        AlertDecodeError = "alert_decode_error",
        AlertDecryptError = "alert_decrypt_error",
        AlertProtocolVersion = "alert_protocol_version",
        AlertInsufficientSecurity = "alert_insufficient_security",
        AlertInternalError = "alert_internal_error",
        AlertUserCanceled = "alert_user_canceled",
        AlertMissingExtension = "alert_missing_extension",
        AlertUnrecognisedName = "alert_unrecognised_name",
        AlertCertificateRequired = "alert_certificate_required",
        AlertNoApplicationProtocol = "alert_no_application_protocol",
        AlertOther = "alert_other",
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    pub kind: FaultKind,
}

impl Fault {
    pub const fn new(kind: FaultKind) -> Self {
        Fault { kind }
    }

    /// The alert of the peer that this tells of, by its name.
    pub fn received(self) -> Option<&'static str> {
        match self.kind {
            FaultKind::ClosedInHandshake => Some(CLOSE_NOTIFY),
            kind => kind.name().strip_prefix("alert_"),
        }
    }

    /// What a verifier of ours returns where no error of rustls says it.
    pub(super) fn into_certificate_error(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())
    }
}

impl std::error::Error for Fault {}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Fault::new(match error {
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                FaultKind::UnexpectedMessage
            }
            Error::InvalidMessage(message) => message_kind(message),
            Error::PeerSentOversizedRecord => FaultKind::RecordTooLarge,
            Error::DecryptError => FaultKind::RecordAuthentication,
            Error::NoCertificatesPresented => FaultKind::CertificateMissing,
            Error::PeerIncompatible(incompatible) => incompatible_kind(incompatible),
            Error::PeerMisbehaved(misbehaved) => misbehaved_kind(misbehaved),
            Error::AlertReceived(alert) => alert_kind(*alert),
            Error::InvalidCertificate(certificate) => certificate_kind(certificate),
            Error::InvalidCertRevocationList(_) => FaultKind::CertificateRevocationUnknown,
            Error::NoApplicationProtocol => FaultKind::NoApplicationProtocol,
            // rustls says it in words only: no certificate of ours has a key that the client's suites and signature
            // schemes can use. A test notices when the words change.
            Error::General(why) if why == "no server certificate chain resolved" => {
                FaultKind::NoSharedSignature
            }
            _ => FaultKind::Internal,
        })
    }
}

/// The name of the alert that ends a connection in good order.
pub const CLOSE_NOTIFY: &str = "close_notify";

/// The name of an alert that stands at the end of `reply`, which rustls has written for `error`. One that goes out
/// under the keys of TLS 1.3 cannot be read any more; then the error tells what rustls says to it.
pub(super) fn sent(reply: &[u8], error: &Error) -> &'static str {
    let described = match error {
        _ if plain_alert(reply).is_some() => return plain_alert(reply).unwrap_or("other"),
        Error::InvalidCertificate(certificate) => AlertDescription::from(certificate.clone()),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::InvalidMessage(message) => AlertDescription::from(*message),
        Error::PeerMisbehaved(
            PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyRenegotiationRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived,
        ) => AlertDescription::UnexpectedMessage,
        _ => return "other",
    };
    alert_name(described)
}

/// The name of the alert in the clear at the end of `reply` (RFC 8446 5.1, 6): type, version, length 2, level, what.
pub(super) fn plain_alert(reply: &[u8]) -> Option<&'static str> {
    match reply.last_chunk::<7>()? {
        &[21, 3, _, 0, 2, 1 | 2, description] => Some(alert_name(description.into())),
        _ => None,
    }
}

fn alert_name(description: AlertDescription) -> &'static str {
    match description {
        AlertDescription::CloseNotify => CLOSE_NOTIFY,
        other => alert_kind(other).name().strip_prefix("alert_").unwrap_or("other"),
    }
}

fn message_kind(message: &InvalidMessage) -> FaultKind {
    match message {
        InvalidMessage::MessageTooLarge | InvalidMessage::HandshakePayloadTooLarge => {
            FaultKind::RecordTooLarge
        }
        InvalidMessage::CertificatePayloadTooLarge => FaultKind::CertificateChainTooLong,
        InvalidMessage::NoSignatureSchemes => FaultKind::NoSharedSignature,
        _ => FaultKind::BadRecord,
    }
}

fn incompatible_kind(incompatible: &PeerIncompatible) -> FaultKind {
    match incompatible {
        PeerIncompatible::NoCipherSuitesInCommon => FaultKind::NoSharedCipher,
        PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired => {
            FaultKind::NoSharedGroup
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => FaultKind::NoSharedSignature,
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => FaultKind::NoSharedVersion,
        _ => FaultKind::PeerIncompatible,
    }
}

fn misbehaved_kind(misbehaved: &PeerMisbehaved) -> FaultKind {
    match misbehaved {
        PeerMisbehaved::TooManyEmptyFragments
        | PeerMisbehaved::TooManyKeyUpdateRequests
        | PeerMisbehaved::TooManyRenegotiationRequests
        | PeerMisbehaved::TooManyWarningAlertsReceived
        | PeerMisbehaved::IllegalMiddleboxChangeCipherSpec => FaultKind::RecordFlood,
        _ => FaultKind::PeerMisbehaved,
    }
}

fn certificate_kind(error: &CertificateError) -> FaultKind {
    use CertificateError as E;
    match error {
        E::BadEncoding | E::UnhandledCriticalExtension => FaultKind::CertificateMalformed,
        E::Expired | E::ExpiredContext { .. } => FaultKind::CertificateExpired,
        E::NotValidYet | E::NotValidYetContext { .. } => FaultKind::CertificateNotYetValid,
        E::Revoked => FaultKind::CertificateRevoked,
        E::UnknownIssuer => FaultKind::CertificateUnknownIssuer,
        E::UnknownRevocationStatus
        | E::ExpiredRevocationList
        | E::ExpiredRevocationListContext { .. } => FaultKind::CertificateRevocationUnknown,
        E::BadSignature => FaultKind::CertificateSignature,
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            FaultKind::CertificateAlgorithm
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => FaultKind::NameMismatch,
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => FaultKind::CertificatePurpose,
        E::ApplicationVerificationFailure => FaultKind::NameNotAllowed,
        E::Other(OtherError(other)) => match other.downcast_ref::<Fault>() {
            Some(fault) => fault.kind,
            None => FaultKind::CertificateRejected,
        },
        _ => FaultKind::CertificateRejected,
    }
}

fn alert_kind(alert: AlertDescription) -> FaultKind {
    use AlertDescription as A;
    match alert {
        A::CloseNotify => FaultKind::ClosedInHandshake,
        A::UnexpectedMessage => FaultKind::AlertUnexpectedMessage,
        A::BadRecordMac => FaultKind::AlertBadRecordMac,
        A::RecordOverflow => FaultKind::AlertRecordOverflow,
        A::HandshakeFailure => FaultKind::AlertHandshakeFailure,
        A::BadCertificate => FaultKind::AlertBadCertificate,
        A::UnsupportedCertificate => FaultKind::AlertUnsupportedCertificate,
        A::CertificateRevoked => FaultKind::AlertCertificateRevoked,
        A::CertificateExpired => FaultKind::AlertCertificateExpired,
        A::CertificateUnknown => FaultKind::AlertCertificateUnknown,
        A::IllegalParameter => FaultKind::AlertIllegalParameter,
        A::UnknownCA => FaultKind::AlertUnknownCa,
        A::AccessDenied => FaultKind::AlertAccessDenied,
        A::DecodeError => FaultKind::AlertDecodeError,
        A::DecryptError => FaultKind::AlertDecryptError,
        A::ProtocolVersion => FaultKind::AlertProtocolVersion,
        A::InsufficientSecurity => FaultKind::AlertInsufficientSecurity,
        A::InternalError => FaultKind::AlertInternalError,
        A::UserCanceled => FaultKind::AlertUserCanceled,
        A::MissingExtension => FaultKind::AlertMissingExtension,
        A::UnrecognisedName => FaultKind::AlertUnrecognisedName,
        A::CertificateRequired => FaultKind::AlertCertificateRequired,
        A::NoApplicationProtocol => FaultKind::AlertNoApplicationProtocol,
        _ => FaultKind::AlertOther,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own_that_fits_a_metric() {
        for (index, kind) in FaultKind::ALL.iter().enumerate() {
            let name = kind.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(FaultKind::ALL[..index].iter().all(|other| other.name() != name), "{name}");
        }
    }

    #[test]
    fn a_fault_of_ours_comes_back_through_rustls() {
        for kind in FaultKind::ALL {
            let error = Fault::new(*kind).into_certificate_error();
            assert_eq!(Fault::from(&error).kind, *kind);
        }
    }
}
