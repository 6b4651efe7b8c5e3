"""The enumerations of qos2.h, as classes and, as in C, as plain names."""

from __future__ import annotations

from enum import IntEnum


class QOS_TRAFFIC_TYPE(IntEnum):
    """What kind of traffic a flow carries."""

    QOSTrafficTypeBestEffort = 0
    QOSTrafficTypeBackground = 1
    QOSTrafficTypeExcellentEffort = 2
    QOSTrafficTypeAudioVideo = 3
    QOSTrafficTypeVoice = 4
    QOSTrafficTypeControl = 5


class QOS_SET_FLOW(IntEnum):
    """What QOSSetFlow changes."""

    QOSSetTrafficType = 0
    QOSSetOutgoingRate = 1
    QOSSetOutgoingDSCPValue = 2


class QOS_QUERY_FLOW(IntEnum):
    """What QOSQueryFlow tells."""

    QOSQueryFlowFundamentals = 0
    QOSQueryPacketPriority = 1
    QOSQueryOutgoingRate = 2


class QOS_NOTIFY_FLOW(IntEnum):
    """What QOSNotifyFlow waits for."""

    QOSNotifyCongested = 0
    QOSNotifyUncongested = 1
    QOSNotifyAvailable = 2


class QOS_SHAPING(IntEnum):
    """What happens to packets above a flow's rate."""

    QOSShapeOnly = 0
    QOSShapeAndMark = 1
    QOSUseNonConformantMarkings = 2


class QOS_FLOWRATE_REASON(IntEnum):
    """Why a rate changes."""

    QOSFlowRateNotApplicable = 0
    QOSFlowRateContentChange = 1
    QOSFlowRateCongestion = 2
    QOSFlowRateHigherContentEncoding = 3
    QOSFlowRateUserCaused = 4


QOSTrafficTypeBestEffort = QOS_TRAFFIC_TYPE.QOSTrafficTypeBestEffort
QOSTrafficTypeBackground = QOS_TRAFFIC_TYPE.QOSTrafficTypeBackground
QOSTrafficTypeExcellentEffort = QOS_TRAFFIC_TYPE.QOSTrafficTypeExcellentEffort
QOSTrafficTypeAudioVideo = QOS_TRAFFIC_TYPE.QOSTrafficTypeAudioVideo
QOSTrafficTypeVoice = QOS_TRAFFIC_TYPE.QOSTrafficTypeVoice
QOSTrafficTypeControl = QOS_TRAFFIC_TYPE.QOSTrafficTypeControl

QOSSetTrafficType = QOS_SET_FLOW.QOSSetTrafficType
QOSSetOutgoingRate = QOS_SET_FLOW.QOSSetOutgoingRate
QOSSetOutgoingDSCPValue = QOS_SET_FLOW.QOSSetOutgoingDSCPValue

QOSQueryFlowFundamentals = QOS_QUERY_FLOW.QOSQueryFlowFundamentals
QOSQueryPacketPriority = QOS_QUERY_FLOW.QOSQueryPacketPriority
QOSQueryOutgoingRate = QOS_QUERY_FLOW.QOSQueryOutgoingRate

QOSNotifyCongested = QOS_NOTIFY_FLOW.QOSNotifyCongested
QOSNotifyUncongested = QOS_NOTIFY_FLOW.QOSNotifyUncongested
QOSNotifyAvailable = QOS_NOTIFY_FLOW.QOSNotifyAvailable

QOSShapeOnly = QOS_SHAPING.QOSShapeOnly
QOSShapeAndMark = QOS_SHAPING.QOSShapeAndMark
QOSUseNonConformantMarkings = QOS_SHAPING.QOSUseNonConformantMarkings

QOSFlowRateNotApplicable = QOS_FLOWRATE_REASON.QOSFlowRateNotApplicable
QOSFlowRateContentChange = QOS_FLOWRATE_REASON.QOSFlowRateContentChange
QOSFlowRateCongestion = QOS_FLOWRATE_REASON.QOSFlowRateCongestion
QOSFlowRateHigherContentEncoding = QOS_FLOWRATE_REASON.QOSFlowRateHigherContentEncoding
QOSFlowRateUserCaused = QOS_FLOWRATE_REASON.QOSFlowRateUserCaused

__all__ = [
    "QOS_FLOWRATE_REASON",
    "QOS_NOTIFY_FLOW",
    "QOS_QUERY_FLOW",
    "QOS_SET_FLOW",
    "QOS_SHAPING",
    "QOS_TRAFFIC_TYPE",
    "QOSFlowRateCongestion",
    "QOSFlowRateContentChange",
    "QOSFlowRateHigherContentEncoding",
    "QOSFlowRateNotApplicable",
    "QOSFlowRateUserCaused",
    "QOSNotifyAvailable",
    "QOSNotifyCongested",
    "QOSNotifyUncongested",
    "QOSQueryFlowFundamentals",
    "QOSQueryOutgoingRate",
    "QOSQueryPacketPriority",
    "QOSSetOutgoingDSCPValue",
    "QOSSetOutgoingRate",
    "QOSSetTrafficType",
    "QOSShapeAndMark",
    "QOSShapeOnly",
    "QOSTrafficTypeAudioVideo",
    "QOSTrafficTypeBackground",
    "QOSTrafficTypeBestEffort",
    "QOSTrafficTypeControl",
    "QOSTrafficTypeExcellentEffort",
    "QOSTrafficTypeVoice",
    "QOSUseNonConformantMarkings",
]
